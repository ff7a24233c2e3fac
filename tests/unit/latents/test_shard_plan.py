"""The order of rows."""

import numpy as np
import pyarrow as pa

from histodiff.latents import plan_shards
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
