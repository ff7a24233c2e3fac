"""The shard plan: which patch every row of a store is. A pure function of patches, config and seed.

Reading likes neighbours, training likes mixtures. A *supertile* is a block of neighbouring patches
of one slide, wide and low, cheap to read. Slides are dealt into random groups of ``mixing`` slides;
the supertiles of a group are shuffled and laid end to end; shards are cut from that line, and the
rows of each shard are permuted. In a patch set, an image file is a supertile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from histodiff.errors import ConfigError
from histodiff.latents.arrow import arrow_numbers
from histodiff.runtime import generator_for
from histodiff.runtime.patches import READ_SCHEMA

Int64s = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.uint32]

MAX_ROWS = 2**32 - 1
_ROWS_AT_ONCE = 2**18


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
    patch_of_row: Numbers
    """Row number in the patch table of every row of the store."""
    rows_per_shard: int
    block_of_patch: Numbers
    """Number of the supertile of every patch; numbers ascend with slides and positions."""

    @property
    def num_shards(self) -> int:
        """Shards, the last of which may be short."""
        return -(-len(self.patch_of_row) // self.rows_per_shard)

    def units(self) -> Iterator[ShardUnit]:
        """Every unit, in shard order; each is made when it is asked for."""
        return iter(self.units_of(range(self.num_shards)))

    def units_of(self, shards: Sequence[int]) -> "PlannedUnits":
        """The units of some shards, in that order; each is made when it is asked for."""
        return PlannedUnits(self, shards)

    def patches_of(self, shard: int) -> Int64s:
        """Row number in the patch table of every row of a shard."""
        start = shard * self.rows_per_shard
        return self.patch_of_row[start : start + self.rows_per_shard].astype(np.int64)

    def unit(self, shard: int) -> ShardUnit:
        """The unit of one shard."""
        patches = self.patches_of(shard)
        blocks = self.block_of_patch[patches].astype(np.int64)
        order = np.lexsort((patches, blocks)).astype(np.int64)
        last = np.append(np.diff(blocks[order]) > 0, True)
        rows = self.patches.select(READ_SCHEMA.names).take(arrow_numbers(patches)).cast(READ_SCHEMA)
        return ShardUnit(shard, patches, order, np.flatnonzero(last) + 1, rows)


@dataclass(frozen=True)
class PlannedUnits(Sequence[ShardUnit]):
    """Units of a plan; each is made when it is asked for, and not kept."""

    plan: ShardPlan
    shards: Sequence[int]

    def __len__(self) -> int:
        return len(self.shards)

    @overload
    def __getitem__(self, number: int) -> ShardUnit: ...
    @overload
    def __getitem__(self, number: slice) -> "PlannedUnits": ...
    def __getitem__(self, number: int | slice) -> "ShardUnit | PlannedUnits":
        if isinstance(number, slice):
            return PlannedUnits(self.plan, self.shards[number])
        return self.plan.unit(self.shards[number])

    @property
    def num_rows(self) -> int:
        """Rows of all units."""
        rows, last = self.plan.rows_per_shard, self.plan.num_shards - 1
        missing = rows * self.plan.num_shards - len(self.plan.patch_of_row)
        return len(self) * rows - (missing if last in self.shards else 0)


def plan_shards(
    patches: pa.Table, *, supertile: int, mixing: int, rows_per_shard: int, seed: int
) -> ShardPlan:
    """The plan for a patch table; 8 bytes a patch, at most 24 more while it is made.

    Args:
        patches: Table of a PatchIndex: `READ_SCHEMA`, texts plain or as dictionaries. Quickest
            where slides follow each other, as they do in a PatchIndex.
        supertile: Size of a supertile: its square is the number of patches.
        mixing: Slides whose supertiles are mixed. More mix better, and open more slides per shard.
        rows_per_shard: Rows of one shard.
        seed: Seed of every permutation.

    Raises:
        ConfigError: There are more patches than one store can hold.
    """
    if patches.num_rows > MAX_ROWS:
        raise ConfigError(
            f"{patches.num_rows} patches: a store holds {MAX_ROWS} at most; tile the slides into"
            " several PatchIndexes and encode each into a store of its own"
        )
    block, slide_of_block = _supertiles(patches, supertile)
    place = _line_of_blocks(slide_of_block, mixing, seed)
    line = np.argsort(place[block], kind="stable").astype(np.uint32)
    for shard, start in enumerate(range(0, len(line), rows_per_shard)):
        generator_for(seed, "rows", shard).shuffle(line[start : start + rows_per_shard])
    return ShardPlan(patches, line, rows_per_shard, block)


def _line_of_blocks(slide_of_block: Numbers, mixing: int, seed: int) -> Numbers:
    """Place of every supertile when they are laid end to end, group of slides by group."""
    num_slides = int(slide_of_block[-1]) + 1 if len(slide_of_block) else 0
    group = _slide_groups(num_slides, mixing, seed)
    shuffled = np.arange(len(slide_of_block), dtype=np.uint32)
    generator_for(seed, "supertiles").shuffle(shuffled)
    order = np.lexsort((shuffled, group[slide_of_block]))
    place = np.empty(len(order), np.uint32)
    place[order] = np.arange(len(order), dtype=np.uint32)
    return place


def _slide_groups(num_slides: int, mixing: int, seed: int) -> Numbers:
    """Number of the group that every slide is dealt to; groups have ``mixing`` slides."""
    num_groups = max(1, -(-num_slides // mixing))
    order = generator_for(seed, "slides").permutation(num_slides)
    group = np.empty(num_slides, np.uint32)
    for number, members in enumerate(np.array_split(order, num_groups)):
        group[members] = number
    return group


def _supertiles(patches: pa.Table, side: int) -> tuple[Numbers, Numbers]:
    """Number of the supertile of every patch, and number of the slide of every supertile.

    Numbers are dense from zero, slide by slide in the order of slide ids, row by row in a slide.
    ``side`` squared patches are a block twice as wide as a square and half as high: tiles of a row
    lie one after the other in the file, so that it takes few requests.
    """
    slide = _codes(patches["slide_id"])
    places = patches.select(["x", "y", "path"])
    block_of_patch = np.empty(len(slide), np.uint32)
    slide_of_block = [np.empty(0, np.uint32)]
    first = 0
    for rows in _runs_of_slides(slide):
        blocks, slides = _dense_blocks(_taken(places, rows), slide[rows], side)
        block_of_patch[rows] = first + blocks
        slide_of_block.append(slides)
        first += len(slides)
    return block_of_patch, np.concatenate(slide_of_block)


def _taken(table: pa.Table, rows: "slice | Int64s") -> pa.Table:
    if isinstance(rows, slice):
        return table.slice(rows.start, rows.stop - rows.start)
    return table.take(arrow_numbers(rows))


def _runs_of_slides(slide: Numbers) -> Iterator[slice | Int64s]:
    """Rows of some whole slides at a time, slide by slide; memory grows with these only."""
    order = None if (slide[1:] >= slide[:-1]).all() else np.argsort(slide, kind="stable")
    ascending = slide if order is None else slide[order]
    start = 0
    while start < len(slide):
        last = ascending[min(start + _ROWS_AT_ONCE, len(slide)) - 1]
        end = int(np.searchsorted(ascending, last, side="right"))
        yield slice(start, end) if order is None else order[start:end]
        start = end


def _dense_blocks(patches: pa.Table, slide: Numbers, side: int) -> tuple[Int64s, Numbers]:
    """Number of the supertile of every patch of some slides, and the slide of every supertile."""
    x = patches["x"].to_numpy().astype(np.int64)
    y = patches["y"].to_numpy().astype(np.int64)
    pitch = _pitch(slide - slide[0], x, y)
    width, height = (2 * side, side // 2) if side > 1 else (1, 1)
    on_slide = pc.equal(patches["path"], "").to_numpy()  # an image is a supertile
    across, down = (x // (width * pitch)) * on_slide, (y // (height * pitch)) * on_slide
    keys = (_codes(patches["path"]), across, down, slide)
    order = np.lexsort(keys)
    new = np.zeros(len(order), bool)
    new[0] = True
    for key in keys:
        new[1:] |= np.diff(key[order]) != 0
    blocks = np.empty(len(order), np.int64)
    blocks[order] = np.cumsum(new) - 1
    return blocks, slide[order][new]


def _pitch(slide: Numbers, x: Int64s, y: Int64s) -> Int64s:
    """Distance of neighbours on the slide of every patch in level-0 pixels, at least 1."""
    pitch = np.full(int(slide.max()) + 1, np.iinfo(np.int64).max)
    for coordinate in (x, y):
        order = np.lexsort((coordinate, slide))
        gaps = np.diff(coordinate[order])
        same = (np.diff(slide[order]) == 0) & (gaps > 0)
        np.minimum.at(pitch, slide[order][1:][same], gaps[same])
    pitch[pitch == np.iinfo(np.int64).max] = 1
    return pitch[slide]


def _codes(column: pa.ChunkedArray) -> Numbers:
    """Number of every text, dense and in sorted order; 4 bytes a row."""
    array = column.combine_chunks()
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    used = array.unique().indices
    rank = np.zeros(len(array.dictionary), np.uint32)
    rank[used.take(pc.array_sort_indices(array.dictionary.take(used))).to_numpy()] = np.arange(
        len(used), dtype=np.uint32
    )
    codes: Numbers = rank[array.indices.to_numpy()]
    return codes
