"""The shard plan: which patch every row of a store is. A pure function of patches, config and seed.

Reading likes neighbours, training likes mixtures. A *supertile* is a block of neighbouring patches
of one slide, wide and low, cheap to read. Slides are dealt into random groups of ``mixing`` slides;
the supertiles of a group are shuffled and laid end to end; shards are cut from that line, and the
rows of each shard are permuted. In a patch set, an image file is a supertile.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from histodiff.runtime import generator_for

Int64s = npt.NDArray[np.int64]

READ_SCHEMA = pa.schema(
    [
        ("slide_id", pa.string()),
        ("path", pa.string()),
        ("x", pa.int64()),
        ("y", pa.int64()),
        ("level", pa.int32()),
        ("read_width", pa.int32()),
        ("read_height", pa.int32()),
    ]
)
"""What a reader of pixels must know of a patch; columns of the table of patches."""


@dataclass(frozen=True)
class ShardUnit:
    """One unit of work: the patches of one shard."""

    shard: int
    patches: Int64s
    """Row number in the patch table of every row of the shard, in row order."""
    reading_order: Int64s
    """Rows of the shard in the order in which they are cheap to read: by slide and supertile."""
    supertile_ends: Int64s
    """Where supertiles end in the reading order."""
    rows: pa.Table
    """What to read for every row of the shard, in row order: `READ_SCHEMA`."""


@dataclass(frozen=True)
class ShardPlan:
    """Patches in row order, and where shards are cut."""

    patches: pa.Table
    """The table of patches."""
    patch_of_row: Int64s
    rows_per_shard: int
    block_of_patch: Int64s
    """Number of the supertile of every patch; numbers ascend with slides and positions."""

    @property
    def num_shards(self) -> int:
        """Shards, the last of which may be short."""
        return -(-len(self.patch_of_row) // self.rows_per_shard)

    def units(self) -> Iterator[ShardUnit]:
        """Every unit, in shard order."""
        for shard in range(self.num_shards):
            start = shard * self.rows_per_shard
            patches = self.patch_of_row[start : start + self.rows_per_shard]
            blocks = self.block_of_patch[patches]
            order = np.lexsort((patches, blocks)).astype(np.int64)
            last = np.append(np.diff(blocks[order]) > 0, True)
            known = [name for name in READ_SCHEMA.names if name in self.patches.column_names]
            rows = self.patches.select(known).take(pa.array(patches))
            yield ShardUnit(shard, patches, order, np.flatnonzero(last) + 1, rows)


def plan_shards(
    patches: pa.Table, *, supertile: int, mixing: int, rows_per_shard: int, seed: int
) -> ShardPlan:
    """The plan for a patch table.

    Args:
        patches: Table of a PatchIndex; columns slide_id, path, x, y.
        supertile: Size of a supertile: its square is the number of patches.
        mixing: Slides whose supertiles are mixed. More mix better, and open more slides per shard.
        rows_per_shard: Rows of one shard.
        seed: Seed of every permutation.
    """
    slide = _codes(patches["slide_id"])
    block = _supertiles(patches, slide, supertile)
    group = _slide_groups(int(slide.max(initial=-1)) + 1, mixing, seed)
    place = generator_for(seed, "supertiles").permutation(int(block.max(initial=-1)) + 1)
    line = np.lexsort((np.arange(len(slide)), place[block], group[slide])).astype(np.int64)
    for shard, start in enumerate(range(0, len(line), rows_per_shard)):
        rows = line[start : start + rows_per_shard]
        line[start : start + rows_per_shard] = generator_for(seed, "rows", shard).permutation(rows)
    return ShardPlan(patches, line, rows_per_shard, block)


def _slide_groups(num_slides: int, mixing: int, seed: int) -> Int64s:
    """Number of the group that every slide is dealt to; groups have ``mixing`` slides."""
    num_groups = max(1, -(-num_slides // mixing))
    order = generator_for(seed, "slides").permutation(num_slides)
    group = np.empty(num_slides, np.int64)
    for number, members in enumerate(np.array_split(order, num_groups)):
        group[members] = number
    return group


def _supertiles(patches: pa.Table, slide: Int64s, side: int) -> Int64s:
    """Number of the supertile of every patch, dense from zero, row by row in a slide.

    ``side`` squared patches are a block twice as wide as a square and half as high: tiles of a row
    lie one after the other in the file, so that it takes few requests.
    """
    x = patches["x"].to_numpy().astype(np.int64)
    y = patches["y"].to_numpy().astype(np.int64)
    path = patches["path"]
    pitch = _pitch(slide, x, y)[slide]
    width, height = (2 * side, side // 2) if side > 1 else (1, 1)
    keys = np.stack([slide, y // (height * pitch), x // (width * pitch), _codes(path)])
    keys[1:3, pc.not_equal(path, "").to_numpy()] = 0
    _, block = np.unique(keys, axis=1, return_inverse=True)
    return block.reshape(-1).astype(np.int64)


def _pitch(slide: Int64s, x: Int64s, y: Int64s) -> Int64s:
    """Distance of neighbouring patches of every slide in level-0 pixels, at least 1."""
    pitch = np.full(int(slide.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    for coordinate in (x, y):
        order = np.lexsort((coordinate, slide))
        gaps = np.diff(coordinate[order])
        same = (np.diff(slide[order]) == 0) & (gaps > 0)
        np.minimum.at(pitch, slide[order][1:][same], gaps[same])
    pitch[pitch == np.iinfo(np.int64).max] = 1
    return pitch


def _codes(column: pa.ChunkedArray) -> Int64s:
    """Number of every text, in sorted order."""
    _, codes = np.unique(column.to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    return codes.reshape(-1).astype(np.int64)
