"""Slabs: runs of neighbouring rows that are read as one range.

A slab lies in one shard and has whole inner chunks, about ``slab_bytes`` of them; the slabs of a
shard are as equal as chunks allow. A slab that two lanes share is cut at a row, and each lane reads
its piece, so that every byte is fetched once.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.latents.layout import StoreLayout

Int64s = npt.NDArray[np.int64]
_ROWS_AT_ONCE = 2**24


@dataclass(frozen=True)
class SlabGrid:
    """Where the slabs of a store begin and end; nothing is kept per slab."""

    num_rows: int
    rows_per_shard: int
    slab_rows: int
    """Rows of a slab; the last one of a shard may be shorter."""

    @classmethod
    def of(cls, layout: StoreLayout, *, slab_bytes: int) -> "SlabGrid":
        """The slabs of a store."""
        chunk_bytes = layout.rows_per_chunk * layout.row_bytes
        wanted = max(1, slab_bytes // chunk_bytes)
        slabs = -(-layout.chunks_per_shard // wanted)
        chunks = -(-layout.chunks_per_shard // slabs)
        return cls(layout.num_rows, layout.rows_per_shard, chunks * layout.rows_per_chunk)

    @property
    def slabs_per_shard(self) -> int:
        """Slabs of a full shard."""
        return -(-self.rows_per_shard // self.slab_rows)

    @property
    def num_slabs(self) -> int:
        """Slabs of the store."""
        whole, rest = divmod(self.num_rows, self.rows_per_shard)
        return whole * self.slabs_per_shard + -(-rest // self.slab_rows)

    def starts(self, slabs: Int64s) -> Int64s:
        """First row of every slab."""
        shard, inside = np.divmod(slabs, self.slabs_per_shard)
        starts: Int64s = shard * self.rows_per_shard + inside * self.slab_rows
        return starts

    def slab_of(self, row: int) -> int:
        """The slab that a row lies in."""
        shard, inside = divmod(row, self.rows_per_shard)
        return shard * self.slabs_per_shard + inside // self.slab_rows

    def rows(self, slab: int) -> range:
        """Rows of a slab."""
        shard, inside = divmod(slab, self.slabs_per_shard)
        start = shard * self.rows_per_shard + inside * self.slab_rows
        end = min((shard + 1) * self.rows_per_shard, self.num_rows)
        return range(start, min(start + self.slab_rows, end))

    def counts(self, flags: npt.NDArray[np.uint8], code: int) -> npt.NDArray[np.int32]:
        """Rows of every slab whose flag is ``code``."""
        counts = np.empty(self.num_slabs, np.int32)
        step = max(1, _ROWS_AT_ONCE // self.slab_rows)
        for first in range(0, self.num_slabs, step):
            starts = self.starts(np.arange(first, min(first + step, self.num_slabs)))
            stop = self.rows(first + len(starts) - 1).stop
            chosen = flags[starts[0] : stop] == code
            counts[first : first + len(starts)] = np.add.reduceat(
                chosen, starts - starts[0], dtype=np.int32
            )
        return counts
