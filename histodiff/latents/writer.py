"""Writing shards: one writer per shard, written once, then its ledger record.

The set of ledger files is the progress of a store. A shard without one does not count, whatever
bytes lie there, and is written again. A second writer that would record other bytes for the same
shard is an error.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from histodiff.config import Config
from histodiff.errors import ArtifactCorrupt
from histodiff.latents.codec import metadata_files, shard_bytes
from histodiff.latents.layout import (
    LEDGER_FOLDER,
    StoreLayout,
    ledger_name,
    picture_name,
    shard_name,
)
from histodiff.latents.statistics import ChannelStatistics, channel_statistics, merged_statistics
from histodiff.storage import StoragePath, create_bytes, list_names, read_bytes, write_bytes

NON_FINITE = "NON_FINITE"
"""Reason of rows whose moments are NaN or infinite in fp16."""
CONSTANT = "CONSTANT"
"""Reason of rows whose pixels all have one colour."""
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
    pictures: dict[int, str] = Field(default_factory=dict)
    """Digest of the picture by position, for some quarantined rows whose pixels could be read."""
    statistics: ChannelStatistics | None = None
    """Diagnostics; none without a finite row, and in records older than they are."""

    def same_shard(self, other: "ShardRecord") -> bool:
        """Whether both say that the same was written; sums may differ by rounding on other CPUs."""
        bare = {"statistics": None}
        return self.model_copy(update=bare) == other.model_copy(update=bare)


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
        self,
        shard: int,
        moments: npt.NDArray[np.float16],
        quarantined: dict[int, str],
        *,
        pictures: Mapping[int, bytes] | None = None,
    ) -> ShardRecord:
        """Puts the shard and the pictures, then its record.

        Args:
            shard: Number of the shard.
            moments: ``(rows, 2C, h, w)``, NaN in quarantined rows. Rows that are not finite are
                quarantined here.
            quarantined: Reason by position, for rows without pixels, or with none of use.
            pictures: PNG by position, of quarantined rows.

        Raises:
            ArtifactCorrupt: Another writer has recorded other bytes for this shard.
        """
        reasons = dict(quarantined)
        for position in np.flatnonzero(~finite_rows(moments)):
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
            pictures=self._put_pictures(shard, pictures or {}),
            statistics=channel_statistics(committed),
        )
        write_bytes(self.path / shard_name(shard), data)
        self._record(record)
        return record

    def _put_pictures(self, shard: int, pictures: Mapping[int, bytes]) -> dict[int, str]:
        for position, data in pictures.items():
            write_bytes(self.path / picture_name(shard, position), data)
        return {place: sha256(data).hexdigest() for place, data in sorted(pictures.items())}

    def _record(self, record: ShardRecord) -> None:
        place = self.path / ledger_name(record.shard)
        if create_bytes(place, (record.model_dump_json(indent=2) + "\n").encode()):
            return
        other = _parse(place, read_bytes(place))
        if not other.same_shard(record):
            raise ArtifactCorrupt(
                f"{place}: another writer recorded {other.sha256[:12]} for shard {record.shard},"
                f" this one wrote {record.sha256[:12]}; remove the store and encode again with one"
                " driver"
            )


def finite_rows(moments: npt.NDArray[np.float16]) -> npt.NDArray[np.bool_]:
    """Which rows of moments ``(rows, 2C, h, w)`` are finite in every value."""
    return np.asarray(np.isfinite(moments).all(axis=(1, 2, 3)))


def recorded_shards(path: StoragePath) -> set[int]:
    """Numbers of the shards that have a ledger record: one listing, no record is read."""
    names = list_names(path / LEDGER_FOLDER)
    return {int(name.removesuffix(".json")) for name in names if name.endswith(".json")}


def read_ledger(path: StoragePath, shards: Iterable[int] | None = None) -> dict[int, ShardRecord]:
    """Ledger records of the store at ``path`` by number, ascending; some requests at a time.

    Args:
        path: Folder of the store.
        shards: Shards whose records are read; by default of all that are finished.

    Raises:
        ArtifactCorrupt: A record is none.
        FileNotFoundError: A shard of ``shards`` has no record.
    """
    numbers = sorted(recorded_shards(path) if shards is None else shards)
    with ThreadPoolExecutor(_READ_THREADS) as threads:
        records = threads.map(lambda shard: _read_record(path / ledger_name(shard)), numbers)
        return {record.shard: record for record in records}


def _read_record(place: StoragePath) -> ShardRecord:
    return _parse(place, read_bytes(place))


def store_statistics(records: Mapping[int, ShardRecord]) -> ChannelStatistics | None:
    """Statistics of a whole store, merged in shard order; None if a shard has none recorded."""
    valid = [records[k] for k in sorted(records) if records[k].rows > len(records[k].quarantined)]
    parts = [record.statistics for record in valid if record.statistics is not None]
    return merged_statistics(parts) if len(parts) == len(valid) else None


def _parse(place: StoragePath, data: bytes) -> ShardRecord:
    try:
        return ShardRecord.model_validate_json(data)
    except ValidationError as error:
        raise ArtifactCorrupt(f"{place}: is no ledger record; remove it to encode again") from error
