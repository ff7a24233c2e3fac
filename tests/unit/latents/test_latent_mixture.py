"""Order, lanes and weights of the training reader."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from histodiff.errors import ArtifactError, ConfigError
from histodiff.latents import LatentMixture
from histodiff.latents.lanes import CYCLE, LaneOrder, cycle_quotas
from histodiff.latents.slabs import SlabGrid
from histodiff.telemetry.metrics import READER_GIVEN_BYTES, total
from tests.support.latent_stores import open_new_store, patch_table


@pytest.fixture
def store(tmp_path):
    lost = {0: "UNREADABLE", 40: "NON_FINITE"}
    return open_new_store(
        tmp_path / "store", patch_table(slides=7, side=5, split="train"), quarantined=lost
    )


def mixture(stores, **changes):
    values = {"weights": [1.0] * len(stores), "split": "train", "seed": 3, "batch": 16}
    return LatentMixture(stores, **{**values, "num_lanes": 4, **changes})


def test_mixture_each_valid_row_once_per_epoch(store):
    rows = np.concatenate([mixture([store]).batch_at(step).row_B for step in range(40)])
    counts = Counter(rows.tolist())
    assert set(counts) == set(store.valid_rows.tolist())
    epochs = len(rows) // len(store.valid_rows)  # lanes end an epoch within one draw of another
    assert set(counts.values()) <= {epochs, epochs + 1}


def test_mixture_batch_has_the_moments_of_its_rows(store):
    batch = mixture([store]).batch_at(2)
    assert np.array_equal(batch.moments_BMHW, store.read_rows(batch.row_B))
    assert np.array_equal(batch.sample_index_B, np.arange(32, 48))
    assert batch.moments_BMHW.dtype == np.float16


def test_mixture_counts_the_bytes_that_it_gives_and_says_them_at_its_end(store, caplog):
    before = total(READER_GIVEN_BYTES)
    reader = mixture([store])
    given = sum(reader.batch_at(step).moments_BMHW.nbytes for step in range(3))
    assert total(READER_GIVEN_BYTES) - before == given
    with caplog.at_level("INFO", logger="histodiff"):
        reader.close()
    assert "fetched for" in caplog.text


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_mixture_ranks_together_give_the_same_global_batch(store, world_size):
    for step in (0, 1, 7, 100):
        whole = mixture([store]).batch_at(step)
        parts = [
            mixture([store]).batch_at(step, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for name in ("moments_BMHW", "sample_index_B", "row_B", "store_B"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            assert np.array_equal(joined, getattr(whole, name))


def test_mixture_batch_is_a_pure_function_of_its_step(store):
    reader = mixture([store])
    later = reader.batch_at(57)
    reader.batch_at(3)
    assert np.array_equal(reader.batch_at(57).row_B, later.row_B)
    assert np.array_equal(mixture([store]).batch_at(57).row_B, later.row_B)
    assert not np.array_equal(mixture([store], seed=4).batch_at(57).row_B, later.row_B)


def test_mixture_epochs_have_different_orders(store):
    reader = mixture([store], batch=4, num_lanes=1)
    rows = np.concatenate([reader.batch_at(step).row_B for step in range(100)])
    size = len(store.valid_rows)
    assert sorted(rows[:size]) == sorted(rows[size : 2 * size])
    assert not np.array_equal(rows[:size], rows[size : 2 * size])


def test_mixture_iterator_gives_the_same_batches_from_any_step(store):
    reader = mixture([store])
    batches = reader.batches(5, rank=1, world_size=2)
    for step, batch in zip(range(5, 12), islice(batches, 7), strict=True):
        expected = reader.batch_at(step, rank=1, world_size=2)
        assert np.array_equal(batch.moments_BMHW, expected.moments_BMHW)
    batches.close()


def test_mixture_iterator_raises_what_the_reader_raises(store, tmp_path):
    batches = mixture([store]).batches(0)
    for shard in (tmp_path / "store" / "moments" / "c").rglob("0"):
        if shard.is_file():
            shard.unlink()
    with pytest.raises(ArtifactError):
        next(batches)


def test_mixture_draws_only_the_split(tmp_path):
    store = open_new_store(tmp_path, patch_table(slides=8, side=4))
    reader = mixture([store], split="val")
    rows = np.concatenate([reader.batch_at(step).row_B for step in range(4)])
    assert set(rows.tolist()) == set(store.rows_of_split("val").tolist())


def test_mixture_weights_decide_the_shares(tmp_path, store):
    other = open_new_store(tmp_path / "other", patch_table(slides=3, side=3, split="train"))
    reader = mixture([store, other], weights=[3, 1])
    drawn = np.concatenate([reader.batch_at(step).store_B for step in range(CYCLE // 4)])
    assert np.bincount(drawn).tolist() == [3 * CYCLE, CYCLE]
    other_rows = np.concatenate(
        [batch.row_B[batch.store_B == 1] for batch in map(reader.batch_at, range(CYCLE // 4))]
    )
    counts = Counter(other_rows.tolist()).values()
    assert len(counts) == 27
    assert max(counts) - min(counts) <= 2  # two lanes may be within one draw of an epoch's end


def test_mixture_lanes_that_do_not_fit_are_refused(store):
    with pytest.raises(ConfigError, match="batch=16 must be a multiple of num_lanes=3"):
        mixture([store], num_lanes=3)
    with pytest.raises(ConfigError, match="world size 3 must divide num_lanes=4"):
        mixture([store]).batch_at(0, world_size=3)


def test_mixture_of_other_encoder_or_scale_is_refused(tmp_path, store):
    patches = patch_table(slides=3, side=3, split="train")
    foreign = open_new_store(tmp_path / "a", patches, encoder="0" * 64)
    with pytest.raises(ArtifactError, match="encoder"):
        mixture([store, foreign])
    coarse = open_new_store(tmp_path / "b", patches, mpp=1.0)
    with pytest.raises(ArtifactError, match=r"mpp=1\.0"):
        mixture([store, coarse])


def test_mixture_split_without_rows_is_refused(store):
    with pytest.raises(ArtifactError, match="split 'test'"):
        mixture([store], split="test")


@pytest.mark.parametrize("num_lanes", [1, 3, 8])
@pytest.mark.parametrize("num_rows", [1, 2, 7, 100, 101])
def test_lane_order_lanes_share_every_epoch_evenly(num_rows, num_lanes):
    flags = np.arange(2 * num_rows, dtype=np.uint8) % 2  # every other row is of another split
    order = LaneOrder(flags, 0, SlabGrid(2 * num_rows, 24, 8), num_lanes, 2, seed=1)
    drawn = [order.rows_at(lane, np.arange(num_rows * 3)) for lane in range(num_lanes)]
    for epoch in range(3):
        pieces = [
            rows[[order.place(lane, draw)[0] == epoch for draw in range(len(rows))]]
            for lane, rows in enumerate(drawn)
        ]
        assert sorted(np.concatenate(pieces)) == list(range(0, 2 * num_rows, 2))
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_cycle_quotas_round_to_a_whole_cycle():
    assert cycle_quotas([1]) == (CYCLE,)
    assert sum(cycle_quotas([1, 1, 1])) == CYCLE
    with pytest.raises(ConfigError, match="never be drawn"):
        cycle_quotas([1, 1e-6])
    with pytest.raises(ConfigError, match="positive"):
        cycle_quotas([1, 0])
