"""What a run of ``encode`` had to read for its patches: a line of the log, and in the manifest."""

import logging
from dataclasses import asdict, dataclass, field
from typing import Any

from histodiff.runtime import ReadBytes

READING = "encode_reading"
"""Key in the provenance of a LatentStore's manifest: of the last run, if it was resumed."""
_log = logging.getLogger(__name__)


@dataclass
class Reading:
    """Sums over the shards of this run."""

    read: ReadBytes = field(default_factory=ReadBytes)

    def add(self, read: ReadBytes) -> None:
        """Adds a shard's."""
        self.read += read

    def log(self) -> None:
        """Says it in one line, if anything was read."""
        if self.read.shown:
            _log.info(
                "reading: %.3f GB of pixels decoded for %.3f GB in patches (amplification %.2f),"
                " %.3f GB fetched of remote slides",
                self.read.decoded / 1e9, self.read.shown / 1e9, self.read.amplification,
                self.read.fetched / 1e9,
            )  # fmt: skip

    def recorded(self) -> dict[str, Any]:
        """What a manifest's provenance keeps."""
        if not self.read.shown:
            return {}
        return {READING: {**asdict(self.read), "amplification": self.read.amplification}}
