"""``scratch/live.json``: where a running training is, for whoever looks into its folder.

It is put anew, whole, every few seconds, and says when. It is no part of the artifact.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from histodiff.errors import ArtifactCorrupt
from histodiff.storage import StoragePath, read_bytes, write_bytes

LIVE = "scratch/live.json"


@dataclass(frozen=True)
class LiveStatus:
    """Where a training is."""

    step: int
    images_seen: int
    images_total: int
    ranks: int
    checkpoint_step: int | None
    """Of the last complete checkpoint; None before the first."""
    loss: float | None
    """Of the last step; None before the first of this process."""
    images_per_second: float | None
    """All ranks."""
    data_wait_share: float | None
    """Share of the time that rank 0 waited for data."""
    mfu: float | None
    """Of a rank, 0 to 1; None where it is not known."""
    mfu_note: str | None
    """Why it is never known, and what to set; None where it is."""
    updated: str
    """When this was true: ISO 8601, UTC."""

    @property
    def eta_seconds(self) -> float | None:
        """Time to the end at the present rate; None where there is no rate yet."""
        if not self.images_per_second:
            return None
        return (self.images_total - self.images_seen) / self.images_per_second

    @property
    def age_seconds(self) -> float:
        """Time since it was true, by this machine's clock."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.updated)).total_seconds()


def now_utc() -> str:
    """This moment, as ``LiveStatus.updated`` has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_live(artifact: StoragePath, status: LiveStatus) -> None:
    """Puts the status of the artifact's training."""
    write_bytes(artifact / LIVE, (json.dumps(asdict(status), indent=2) + "\n").encode())


def read_live(artifact: StoragePath) -> LiveStatus | None:
    """The status that was put last; None where none was.

    Raises:
        ArtifactCorrupt: It is not one.
    """
    try:
        text = read_bytes(artifact / LIVE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return LiveStatus(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise ArtifactCorrupt(f"{artifact / LIVE}: not a status; remove it") from error
