"""Rows of a store, read as byte ranges of its shards straight into memory, without zarr.

Shards are not compressed, so that a run of rows is a run of bytes. Where the inner chunks of a
shard lie says the shard's own index, which is read once and checked; that they lie in order is
kept as one byte per shard, and anything else in full. NaN in a row that is not quarantined, or the
reverse, is found in every row that is read, as it is read.
"""

from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from histodiff.errors import ArtifactCorrupt
from histodiff.latents.cache import SlabCache
from histodiff.latents.codec import index_bytes
from histodiff.latents.flags import QUARANTINED, RowFlags
from histodiff.latents.layout import StoreLayout, shard_name
from histodiff.latents.slabs import Int64s, SlabGrid
from histodiff.storage import RangeReader, StoragePath
from histodiff.telemetry import metrics

_CHECKSUM_BYTES = 4
_ABSENT = 2**64 - 1
_SHOWN = 5
_NAME_DIGITS = 32
_NEGATIVE_NON_FINITE = 0xFC00
_NON_FINITE = 0x7C00
_UNKNOWN, _IN_ORDER, _SCATTERED = 0, 1, 2
_BLOCK_BYTES = 2**19


@dataclass
class RowFetcher:
    """Reads runs of rows; called from many threads at once.

    Args:
        path: The store, for messages.
        layout: Its layout.
        flags: Which of its rows are quarantined.
        shards: Its table of shards, in their order.
        ranges: Reads its objects.
        grid: Its slabs.
        cache: Keeps whole slabs, if there is one.
    """

    path: StoragePath
    layout: StoreLayout
    flags: RowFlags
    shards: pa.Table
    ranges: RangeReader
    grid: SlabGrid
    cache: SlabCache | None = None
    _known: npt.NDArray[np.uint8] = field(init=False, repr=False)
    _offsets: dict[int, Int64s] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._known = np.zeros(self.layout.num_shards, np.uint8)

    def read_into(self, rows: range, moments: npt.NDArray[np.float16]) -> None:
        """Fills ``moments``, ``(len(rows), 2C, h, w)``, with rows of a shard; quarantined are NaN.

        Raises:
            ArtifactCorrupt: The shard or an inner chunk is missing, its index is damaged, or a row
                is NaN that is not quarantined (lost data), or the reverse.
            TransientError: The storage could not be read, again and again.
        """
        assert moments.flags.c_contiguous
        buffer = moments.reshape(-1).view(np.uint8).data
        if self.cache is None:
            self._fetch(rows, buffer)
        else:
            self._fetch_or_take(self.cache, rows, buffer)
        self._require_expected(rows, moments)

    def _fetch_or_take(self, cache: SlabCache, rows: range, buffer: memoryview) -> None:
        """A slab that a lane reads in part is taken from the cache, but not kept."""
        slab = self.grid.rows(self.grid.slab_of(rows.start))
        shard = rows.start // self.layout.rows_per_shard
        name = f"{self._recorded('sha256', shard)[:_NAME_DIGITS]}-{slab.start}-{slab.stop}"
        size = self.layout.row_bytes
        skip = (rows.start - slab.start) * size
        if not cache.get(name, buffer, skip=skip, total=len(slab) * size):
            self._fetch(rows, buffer)
            if rows == slab:
                cache.put(name, buffer)

    def _fetch(self, rows: range, buffer: memoryview) -> None:
        shard = rows.start // self.layout.rows_per_shard
        done = 0
        for offset, size in self._ranges(shard, rows):
            self._read(shard, buffer[done : done + size], offset=offset)
            metrics.READER_FETCHED_BYTES.inc(size)
            metrics.READER_REQUESTS.inc()
            done += size

    def _recorded(self, column: str, shard: int) -> Any:
        """What the table of shards says of a shard."""
        return self.shards[column][shard].as_py()

    def _ranges(self, shard: int, rows: range) -> list[tuple[int, int]]:
        """Offset and size of the bytes of the rows in the shard's object, in row order."""
        size, first = self.layout.row_bytes, rows.start - shard * self.layout.rows_per_shard
        if self._known[shard] == _UNKNOWN:
            self._learn(shard)
        if self._known[shard] == _IN_ORDER:
            return [(first * size, len(rows) * size)]
        per_chunk, found = self.layout.rows_per_chunk, []
        while first < rows.stop - shard * self.layout.rows_per_shard:
            chunk, inside = divmod(first, per_chunk)
            stop = min((chunk + 1) * per_chunk, rows.stop - shard * self.layout.rows_per_shard)
            found.append((int(self._offsets[shard][chunk]) + inside * size, (stop - first) * size))
            first = stop
        return found

    def _learn(self, shard: int) -> None:
        """Reads and checks the shard's index."""
        index = bytearray(index_bytes(self.layout))
        self._read(
            shard, memoryview(index), offset=self._recorded("size_bytes", shard) - len(index)
        )
        metrics.READER_INDEX_BYTES.inc(len(index))
        name = self.path / shard_name(shard)
        content, checksum = bytes(index[:-_CHECKSUM_BYTES]), index[-_CHECKSUM_BYTES:]
        if google_crc32c.value(content) != int.from_bytes(checksum, "little"):
            raise ArtifactCorrupt(f"{name}: its index is damaged; encode again")
        entries = np.frombuffer(content, "<u8").reshape(-1, 2)[: self.layout.num_chunks(shard)]
        chunk_bytes = self.layout.rows_per_chunk * self.layout.row_bytes
        for problem, wrong in (
            ("are missing", entries[:, 0] == _ABSENT),
            (f"do not have {chunk_bytes} bytes", entries[:, 1] != chunk_bytes),
        ):
            if wrong.any():
                chunks = np.flatnonzero(wrong)[:_SHOWN].tolist()
                raise ArtifactCorrupt(f"{name}: inner chunks {chunks} {problem}; encode again")
        offsets = entries[:, 0].astype(np.int64)
        if np.array_equal(offsets, np.arange(len(offsets)) * chunk_bytes):
            self._known[shard] = _IN_ORDER
        else:
            self._offsets[shard] = offsets
            self._known[shard] = _SCATTERED

    def _read(self, shard: int, buffer: memoryview, *, offset: int) -> None:
        try:
            self.ranges.read_into(shard_name(shard), buffer, offset=offset)
        except (FileNotFoundError, EOFError) as error:
            what = "shard is missing" if isinstance(error, FileNotFoundError) else "shard is cut"
            raise ArtifactCorrupt(
                f"{self.path / shard_name(shard)}: {what}; encode again"
            ) from error

    def _require_expected(self, rows: range, moments: npt.NDArray[np.float16]) -> None:
        quarantined = self.flags.codes[rows.start : rows.stop] == QUARANTINED
        wrong = rows.start + np.flatnonzero(non_finite_rows(moments) != quarantined)
        if wrong.size:
            raise lost_rows(self.path, self.layout, wrong)


def non_finite_rows(moments: npt.NDArray[np.float16]) -> npt.NDArray[np.bool_]:
    """Which rows have a NaN or an infinity.

    Non-finite halves have all exponent bits set: as signed integers the positive ones are the
    largest of all, as unsigned ones the negative. Two maxima cost a seventh of ``isfinite``, if the
    second finds in the cache what the first has read: blocks of rows, one after the other.
    """
    values = moments.reshape(len(moments), -1)
    found = np.empty(len(values), bool)
    step = max(1, _BLOCK_BYTES // values[:1].nbytes) if len(values) else 1
    for start in range(0, len(values), step):
        block = values[start : start + step]
        positive = block.view(np.int16).max(axis=1) >= _NON_FINITE
        negative = block.view(np.uint16).max(axis=1) >= _NEGATIVE_NON_FINITE
        np.logical_or(positive, negative, out=found[start : start + step])
    return found


def lost_rows(path: StoragePath, layout: StoreLayout, rows: Int64s) -> ArtifactCorrupt:
    """The error about rows that do not match the row table."""
    shards = sorted({int(row) // layout.rows_per_shard for row in rows})
    places = ", ".join(shard_name(shard) for shard in shards[:_SHOWN])
    listed = ", ".join(str(row) for row in rows[:_SHOWN])
    return ArtifactCorrupt(
        f"{path}: {len(rows)} rows ({listed}, ...) in {places} do not match the row table: data"
        " is lost; run `histodiff verify` on it and encode again"
    )
