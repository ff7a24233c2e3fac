"""Writing shards: one writer per shard, written once, then its ledger record.

The set of ledger files is the progress of a store. A shard without one does not count, whatever
bytes lie there, and is written again. A second writer that would record other bytes for the same
shard is an error.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from histodiff.config import Config
from histodiff.errors import ArtifactCorrupt
from histodiff.latents.codec import metadata_files, shard_bytes
from histodiff.latents.layout import LEDGER_FOLDER, StoreLayout, ledger_name, shard_name
from histodiff.storage import StoragePath, create_bytes, list_names, read_bytes, write_bytes

NON_FINITE = "NON_FINITE"
_READ_THREADS = 16


class ShardRecord(Config):
    """Ledger record of a shard that is completely written."""

    shard: int
    """Number of the shard."""
    rows: int
    """Planned rows: written and quarantined."""
    size_bytes: int
    """Size of the shard's object."""
    sha256: str
    """Digest of the shard's object."""
    quarantined: dict[int, str]
    """Reason by position in the shard, for rows that are NaN."""


@dataclass(frozen=True)
class ShardWriter:
    """Commits shards of the store at ``path``."""

    path: StoragePath
    layout: StoreLayout

    def write_metadata(self) -> None:
        """Puts the Zarr metadata; the same bytes every time."""
        for name, data in metadata_files(self.layout).items():
            write_bytes(self.path / name, data)

    def write(
        self, shard: int, moments: npt.NDArray[np.float16], quarantined: dict[int, str]
    ) -> ShardRecord:
        """Puts the shard, then its record.

        Args:
            shard: Number of the shard.
            moments: ``(rows, 2C, h, w)``, NaN in quarantined rows. Rows that are not finite are
                quarantined here.
            quarantined: Reason by position, for rows without pixels.

        Raises:
            ArtifactCorrupt: Another writer has recorded other bytes for this shard.
        """
        reasons = dict(quarantined)
        for position in np.flatnonzero(~np.isfinite(moments).all(axis=(1, 2, 3))):
            reasons.setdefault(int(position), NON_FINITE)
        committed = moments.copy()
        committed[sorted(reasons)] = np.nan
        data = shard_bytes(self.layout, shard, committed)
        record = ShardRecord(
            shard=shard,
            rows=len(moments),
            size_bytes=len(data),
            sha256=sha256(data).hexdigest(),
            quarantined=dict(sorted(reasons.items())),
        )
        write_bytes(self.path / shard_name(shard), data)
        self._record(record)
        return record

    def _record(self, record: ShardRecord) -> None:
        place = self.path / ledger_name(record.shard)
        if create_bytes(place, (record.model_dump_json(indent=2) + "\n").encode()):
            return
        other = _parse(place, read_bytes(place))
        if other != record:
            raise ArtifactCorrupt(
                f"{place}: another writer recorded {other.sha256[:12]} for shard {record.shard},"
                f" this one wrote {record.sha256[:12]}; remove the store and encode again with one"
                " driver"
            )


def read_ledger(path: StoragePath) -> dict[int, ShardRecord]:
    """Records of the finished shards of the store at ``path``, by number."""
    folder = path / LEDGER_FOLDER
    places = [folder / name for name in list_names(folder) if name.endswith(".json")]
    with ThreadPoolExecutor(_READ_THREADS) as threads:
        contents = list(threads.map(read_bytes, places))
    records = [_parse(place, data) for place, data in zip(places, contents, strict=True)]
    return {record.shard: record for record in sorted(records, key=lambda item: item.shard)}


def _parse(place: StoragePath, data: bytes) -> ShardRecord:
    try:
        return ShardRecord.model_validate_json(data)
    except ValidationError as error:
        raise ArtifactCorrupt(f"{place}: is no ledger record; remove it to encode again") from error
