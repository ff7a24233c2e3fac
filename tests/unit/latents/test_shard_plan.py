"""The order of rows."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from histodiff.latents import plan as plan_module
from histodiff.latents import plan_shards
from histodiff.runtime import generator_for
from histodiff.runtime.patches import READ_SCHEMA
from tests.support.latent_stores import patch_table

PATCHES = patch_table(slides=12, side=8)


def plan(patches=PATCHES, **changes):
    values = {"supertile": 4, "mixing": 4, "rows_per_shard": 64, "seed": 0, **changes}
    return plan_shards(patches, **values)


def test_plan_every_patch_is_one_row():
    assert sorted(plan().patch_of_row) == list(range(12 * 64))


def test_plan_is_a_pure_function_of_table_config_and_seed():
    assert np.array_equal(plan().patch_of_row, plan().patch_of_row)
    assert not np.array_equal(plan().patch_of_row, plan(seed=1).patch_of_row)


def test_plan_shard_is_made_of_whole_supertiles_of_few_slides():
    slides = np.array(PATCHES["slide_id"].to_pylist())
    block = np.array(
        [f"{row['slide_id']} {row['x'] // 1792} {row['y'] // 448}" for row in PATCHES.to_pylist()]
    )
    for unit in plan().units():
        assert 1 <= len(set(slides[unit.patches])) <= 4
        assert len(set(block[unit.patches])) == 4  # 64 rows of 16 each


def test_plan_mixing_sets_how_many_slides_meet():
    slides = np.array(PATCHES["slide_id"].to_pylist())

    def mean_slides(mixing):
        units = plan(mixing=mixing, supertile=1).units()
        return np.mean([len(set(slides[unit.patches])) for unit in units])

    assert mean_slides(1) == 1
    assert mean_slides(12) > 11


def test_plan_reading_order_goes_through_supertiles_one_by_one():
    rows = PATCHES.to_pylist()
    for unit in plan().units():
        assert sorted(unit.reading_order) == list(range(64))
        read = [rows[number] for number in unit.patches[unit.reading_order]]
        ends = list(unit.supertile_ends)
        assert ends == [16, 32, 48, 64]
        for start, end in zip([0, *ends], ends, strict=False):
            block = [
                (row["slide_id"], row["x"] // 1792, row["y"] // 448) for row in read[start:end]
            ]
            assert len(set(block)) == 1


def test_plan_rows_inside_a_shard_are_permuted():
    first = next(plan().units()).patches
    assert not np.array_equal(first, np.sort(first))
    steps = np.abs(np.diff(first))
    assert np.mean(steps == 1) < 0.1


def test_plan_images_of_a_patch_set_stay_whole():
    rows = [
        {
            "slide_id": "set",
            "path": f"image-{k // 4}.png",
            "x": 64 * (k % 2),
            "y": 64 * (k // 2 % 2),
            "level": 0,
            "read_width": 64,
            "read_height": 64,
        }
        for k in range(64)
    ]
    table = pa.Table.from_pylist(rows)
    for unit in plan(table, rows_per_shard=8).units():
        assert len({rows[patch]["path"] for patch in unit.patches}) == 2


def test_plan_last_shard_is_short():
    units = list(plan(rows_per_shard=100).units())
    assert [len(unit.patches) for unit in units] == [100] * 7 + [68]
    assert plan(rows_per_shard=100).num_shards == 8


def test_plan_empty_table_has_no_units():
    assert list(plan(PATCHES.slice(0, 0)).units()) == []


def random_table(seed, *, kind, ordered, dictionaries):
    """Slides of a few names in several scripts, on grids of several pitches, or images, or both."""
    draw = np.random.default_rng(seed)
    rows, slides = int(draw.integers(1, 800)), int(draw.integers(1, 12))
    slide = draw.integers(0, slides, rows)
    images = {"slides": 0, "images": 1, "both": slide % 2}[kind] * np.ones(rows, int)
    table = pa.table(
        {
            "slide_id": [("S{}", "s{}", "\u00e9{}")[k % 3].format(k) for k in slide],
            "path": [
                f"{k}.png" if image else "" for k, image in zip(slide * 7 % 10, images, strict=True)
            ],
            "x": draw.integers(0, 20, rows) * draw.choice([224, 17]) + 5,
            "y": draw.integers(0, 20, rows) * 224,
            "level": pa.nulls(rows, pa.int32()),
            "read_width": pa.nulls(rows, pa.int32()),
            "read_height": pa.nulls(rows, pa.int32()),
        }
    )
    if ordered:
        table = table.sort_by([(name, "ascending") for name in ("slide_id", "y", "x", "path")])
    encoded = {
        name: table[name].dictionary_encode() if dictionaries and name in ("slide_id", "path")
        else table[name]
        for name in table.column_names
    }  # fmt: skip
    return pa.table(encoded)


def plain_order(table, *, supertile, mixing, rows_per_shard, seed):
    """The rule of the row order, patch by patch: (row order, supertile of every patch)."""
    rows = table.to_pylist()
    slides = sorted({row["slide_id"] for row in rows})
    pitch = {slide: min(
        (
            after - before
            for axis in ("x", "y")
            for before, after in pairwise(
                sorted({row[axis] for row in rows if row["slide_id"] == slide})
            )
        ),
        default=1,
    ) for slide in slides}  # fmt: skip
    width, height = (2 * supertile, supertile // 2) if supertile > 1 else (1, 1)

    def block(row):
        step = 0 if row["path"] else 1
        down = step * (row["y"] // (height * pitch[row["slide_id"]]))
        across = step * (row["x"] // (width * pitch[row["slide_id"]]))
        return (row["slide_id"], down, across, row["path"])

    blocks = {key: number for number, key in enumerate(sorted({block(row) for row in rows}))}
    dealt = generator_for(seed, "slides").permutation(len(slides))
    groups = np.array_split(dealt, max(1, -(-len(slides) // mixing)))
    group_of = {slides[k]: number for number, group in enumerate(groups) for k in group}
    place = generator_for(seed, "supertiles").permutation(len(blocks))
    line = np.array(
        sorted(range(len(rows)), key=lambda patch: (
            group_of[rows[patch]["slide_id"]], place[blocks[block(rows[patch])]], patch
        ))
    )  # fmt: skip
    shards = [
        generator_for(seed, "rows", shard).permutation(line[start : start + rows_per_shard])
        for shard, start in enumerate(range(0, len(line), rows_per_shard))
    ]
    return np.concatenate(shards), [blocks[block(row)] for row in rows]


@pytest.mark.parametrize("dictionaries", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("kind", ["slides", "images", "both"])
def test_plan_is_the_plain_rule_however_much_is_looked_at_at_once(
    monkeypatch, kind, ordered, dictionaries
):
    for seed in range(4):
        monkeypatch.setattr(plan_module, "_ROWS_AT_ONCE", (5, 100, 2**18, 50)[seed])
        table = random_table(seed, kind=kind, ordered=ordered, dictionaries=dictionaries)
        settings = {
            "supertile": (1, 2, 4, 8)[seed], "mixing": (1, 3, 2, 16)[seed], "seed": seed,
            "rows_per_shard": 64,
        }  # fmt: skip
        rows, blocks = plain_order(table, **settings)
        found = plan_shards(table, **settings)
        assert np.array_equal(found.patch_of_row, rows)
        assert np.array_equal(found.block_of_patch, blocks)


def test_plan_units_are_made_when_asked_for_and_say_what_to_read():
    units = plan(rows_per_shard=100).units_of([7, 2, 0])
    assert (len(units), units.num_rows) == (3, 68 + 200)
    assert [unit.shard for unit in units] == [7, 2, 0]
    assert [unit.shard for unit in units[1:]] == [2, 0]
    assert units[0] is not units[0]
    rows = PATCHES.to_pylist()
    for unit in units:
        read = unit.rows.to_pylist()
        assert read == [{key: rows[k][key] for key in read[0]} for k in unit.patches]
        assert unit.rows.schema.equals(READ_SCHEMA)


def test_plan_takes_few_bytes_a_row(monkeypatch):
    monkeypatch.setattr(plan_module, "_ROWS_AT_ONCE", 2**12)
    side, slides = 100, 30
    number = side * side * slides
    place = np.arange(number)
    table = pa.table(
        {
            "slide_id": pa.array([f"slide-{k:03d}" for k in place // side**2]).dictionary_encode(),
            "path": pa.array([""] * number).dictionary_encode(),
            "x": pa.array((place % side * 224).astype(np.int32)),
            "y": pa.array((place // side % side * 224).astype(np.int32)),
        }
    )
    tracemalloc.start()
    found = plan(table, rows_per_shard=4096)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.patch_of_row.nbytes + found.block_of_patch.nbytes == 8 * number
    assert peak < 40 * number
