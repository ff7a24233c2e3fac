"""Statistics merged from shards against all rows at once, and whitening from either."""

import json
from fractions import Fraction

import numpy as np
import pytest

from histodiff.errors import ArtifactCorrupt
from histodiff.latents import ShardRecord, ShardWriter, mixture_whitening, store_statistics
from histodiff.latents.layout import ledger_name
from histodiff.latents.statistics import channel_statistics, merged_statistics
from histodiff.latents.writer import read_ledger
from histodiff.storage import storage_path
from tests.support.latent_stores import moments_of, open_new_store, patch_table, store_layout


def adversarial(rows: int) -> np.ndarray:
    """Means at 1000 that differ by a step of fp16 at most, and a channel that is almost constant"""
    generator = np.random.default_rng(3)
    values = np.empty((rows, 4, 2, 2), np.float16)
    values[:, 0] = 1000 + 0.5 * generator.integers(0, 2, (rows, 2, 2))
    values[:, 1] = -2.0
    values[0, 1, 0, 0] = -2.002
    values[:, 2] = np.abs(generator.normal(0, 1e-3, (rows, 2, 2)))
    values[:, 3] = np.abs(generator.normal(0, 300, (rows, 2, 2)))
    return values


def exact(values: np.ndarray) -> tuple[float, float]:
    """Mean and variance in rational numbers."""
    numbers = [Fraction(float(value)) for value in values.ravel()]
    mean = sum(numbers) / len(numbers)
    return float(mean), float(sum((number - mean) ** 2 for number in numbers) / len(numbers))


@pytest.mark.parametrize("cuts", [[1], [3, 500, 501], list(range(7, 1000, 7))])
def test_merged_statistics_are_those_of_all_rows_at_once(cuts):
    values = adversarial(1000)
    parts = [channel_statistics(part) for part in np.split(values, cuts)]
    found = merged_statistics([part for part in parts if part])
    assert found.rows == 1000
    for channel in range(2):
        mean, variance = exact(values[:, channel])
        assert found.mean_of_means[channel] == pytest.approx(mean, rel=1e-10)
        assert found.variance_of_means[channel] == pytest.approx(variance, rel=1e-10)
        own, spread = exact(values[:, 2 + channel])
        assert found.posterior_variance[channel] == pytest.approx(own**2 + spread, rel=1e-10)


def test_rows_that_are_not_finite_do_not_count():
    values = adversarial(20)
    holed = values.copy()
    holed[3, 1, 0, 1] = np.nan
    holed[7] = np.inf
    kept = np.delete(values, [3, 7], axis=0)
    assert channel_statistics(holed) == channel_statistics(kept)
    assert channel_statistics(np.full((2, 4, 2, 2), np.nan, np.float16)) is None


def written(folder, shards) -> dict[int, ShardRecord]:
    patches = patch_table(slides=8, side=4)
    layout = store_layout(patches.num_rows)
    writer = ShardWriter(storage_path(folder), layout)
    for shard in shards:
        rows = np.asarray(layout.shard_rows(shard))
        reasons = {0: "UNREADABLE"} if shard == 2 else {}
        writer.write(shard, moments_of(rows, layout.moment_shape), reasons)
    return read_ledger(writer.path)


def test_the_store_has_the_statistics_of_its_valid_rows_whatever_the_order(tmp_path):
    forward = written(tmp_path / "a", range(8))
    backward = written(tmp_path / "b", reversed(range(8)))
    assert store_statistics(forward) == store_statistics(dict(reversed(backward.items())))
    values = moments_of(np.arange(128), (4, 2, 2))
    values = np.delete(values, 2 * 16, axis=0).astype(np.float64)
    found = store_statistics(forward)
    assert found.rows == 127
    assert found.mean_of_means == pytest.approx(values[:, :2].mean(axis=(0, 2, 3)), rel=1e-12)
    assert found.variance_of_means == pytest.approx(values[:, :2].var(axis=(0, 2, 3)), rel=1e-12)


def test_records_without_statistics_are_read_and_make_those_of_the_store_unknown(tmp_path):
    written(tmp_path, range(8))
    place = storage_path(tmp_path) / ledger_name(3)
    old = json.loads(place.read_bytes())
    del old["statistics"]
    place.write_bytes(json.dumps(old).encode())
    records = read_ledger(storage_path(tmp_path))
    assert records[3].statistics is None
    assert store_statistics(records) is None
    again = written(tmp_path, [3])  # the same bytes again: no second writer
    assert again[3].statistics is None


def test_another_writer_with_other_bytes_is_still_refused(tmp_path):
    written(tmp_path, [0])
    layout = store_layout(128)
    with pytest.raises(ArtifactCorrupt, match="another writer"):
        ShardWriter(storage_path(tmp_path), layout).write(
            0, moments_of(np.arange(16, 32), layout.moment_shape), {}
        )


def test_whitening_of_views_differs_by_the_posterior_variance(tmp_path):
    store = open_new_store(tmp_path, patch_table(slides=8, side=4))
    train = store.read_rows(store.rows_of_split("train")).astype(np.float64)
    means, variance = train[:, :2], (train[:, 2:] ** 2).mean(axis=(0, 2, 3))
    drawn = mixture_whitening([store], [1.0])
    mean = mixture_whitening([store], [1.0], view="mean")
    assert mean.mean == drawn.mean
    assert mean.scale == pytest.approx(means.std(axis=(0, 2, 3)), rel=1e-12)
    assert np.square(drawn.scale) == pytest.approx(np.square(mean.scale) + variance, rel=1e-12)


def test_recorded_statistics_are_used_for_a_store_of_one_split_and_for_no_other(tmp_path):
    whole = open_new_store(tmp_path / "a", patch_table(slides=8, side=4, split="train"))
    mixed = open_new_store(tmp_path / "b", patch_table(slides=8, side=4))
    invented = channel_statistics(adversarial(whole.num_rows))
    taken = mixture_whitening([whole], [1.0], recorded=[invented], view="mean")
    assert taken.mean == invented.mean_of_means
    read = mixture_whitening([mixed], [1.0], recorded=[invented])
    assert read == mixture_whitening([mixed], [1.0])
    own = store_statistics(read_ledger(whole.path))
    assert mixture_whitening([whole], [1.0], recorded=[own]).scale == pytest.approx(
        mixture_whitening([whole], [1.0]).scale, rel=1e-12
    )
