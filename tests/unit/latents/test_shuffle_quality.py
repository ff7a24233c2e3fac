"""How well the default order mixes slides, on the plan of a store of a thousand uneven slides."""

import numpy as np
import pytest

from histodiff.config import load_config
from histodiff.config.loader import shipped_configs
from histodiff.latents import ReaderSettings, plan_shards
from histodiff.latents.lanes import LaneOrder
from histodiff.latents.shuffle_quality import distinct_slides, shuffle_quality, slide_opens
from histodiff.latents.slabs import SlabGrid
from histodiff.workflows.encode import EncodeConfig
from tests.benchmarks.shuffle_table import BATCH, ROW_BYTES, ROWS, simulated_patches


@pytest.fixture(scope="module")
def large():
    """Config of large stores, its plan, and the slide of every row."""
    config = load_config(EncodeConfig, shipped_configs() / "encode" / "large.yaml")
    patches, slide_of_patch = simulated_patches()
    plan = plan_shards(
        patches, supertile=config.supertile, mixing=config.mixing,
        rows_per_shard=config.store.rows_per_shard, seed=config.seed,
    )  # fmt: skip
    return config, plan, slide_of_patch[plan.patch_of_row]


def order(rows_per_shard, *, num_lanes, settings):
    grid = SlabGrid(ROWS, rows_per_shard, settings.slab_bytes // ROW_BYTES)
    flags = np.zeros(ROWS, np.uint8)
    return LaneOrder(flags, 0, grid, num_lanes, settings.window_slabs, seed=1)


@pytest.mark.parametrize("num_lanes", [8, 16, 64])
def test_default_order_shows_nine_tenths_of_the_slides_of_a_perfect_shuffle(large, num_lanes):
    config, _, slides = large
    lanes = order(config.store.rows_per_shard, num_lanes=num_lanes, settings=ReaderSettings())
    quality = shuffle_quality(lanes, slides, batch=BATCH)
    assert quality.perfect_slides > 200
    assert 0.9 <= quality.distinct_ratio < 1.02
    assert 0 < quality.lag_1_correlation < 0.01


def test_quality_of_one_lane_without_window_is_bad_and_of_shuffled_rows_perfect(large):
    config, _, slides = large
    settings = ReaderSettings(window_slabs=1)
    lanes = order(config.store.rows_per_shard, num_lanes=1, settings=settings)
    assert shuffle_quality(lanes, slides, batch=BATCH).distinct_ratio < 0.5
    shuffled = np.random.Generator(np.random.Philox(1)).permutation(slides)
    perfect = shuffle_quality(lanes, shuffled, batch=BATCH)
    assert abs(perfect.distinct_ratio - 1) < 0.01
    assert abs(perfect.lag_1_correlation) < 0.001


def test_lag_1_correlation_of_slides_in_order_is_nearly_one():
    lanes = order(4096, num_lanes=1, settings=ReaderSettings())
    blocks = np.arange(ROWS) // 4096  # a shard is a slide
    assert shuffle_quality(lanes, blocks, batch=BATCH).lag_1_correlation < 0.3
    settings = ReaderSettings(window_slabs=1)
    one = order(4096, num_lanes=1, settings=settings)
    assert shuffle_quality(one, blocks, batch=BATCH).lag_1_correlation > 0.98


def test_distinct_slides_counts_each_once():
    assert distinct_slides(np.array([[1, 1, 2, 1], [5, 6, 7, 8]])) == 3.0


def test_slide_opens_are_those_of_the_plan(large):
    config, plan, slides = large
    counted = [len({int(slide) for slide in slides[shard * 8192 : (shard + 1) * 8192]})
               for shard in range(plan.num_shards)]  # fmt: skip
    assert slide_opens(plan, slides) == pytest.approx(np.mean(counted))
    assert config.mixing < slide_opens(plan, slides) < 2 * config.mixing
