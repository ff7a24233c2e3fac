"""Samples depend on seed and number alone, and go where guidance points."""

import json

import numpy as np
import pytest
import torch

from histodiff.diffusion import GuidanceConfig, guided_denoiser
from histodiff.diffusion.samplers import DdimSampler, HeunSampler
from histodiff.samples import SampleStore, finish_store, finished_shards
from histodiff.storage import storage_path
from histodiff.synthesis.plan import num_shards, shard_samples
from histodiff.synthesis.sampling import Drawing, Networks, draw
from histodiff.synthesis.worker import StorePlan, Synthesizer

SHAPE = (2, 4, 4)
SIGMAS = torch.tensor([10.0, 3.0, 1.0, 0.3, 0.1, 0.0])


def gaussian_denoise(x, sigma):
    """The exact denoiser of standard normal data."""
    return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


class MeanGuide:
    """Class 1 where the mean of x is positive; knows how little noisy x says."""

    classes = ("negative", "positive")

    def adapted(self, denoise):
        return denoise

    def log_probabilities(self, x, sigma):
        score = 8 * x.mean(dim=(1, 2, 3)) / (1 + sigma**2)
        return torch.stack([-score, score], dim=1).log_softmax(dim=1)

    def steered(self, denoise, labels, *, guidance):
        def log_probability(x, sigma):
            return self.log_probabilities(x, sigma).gather(1, labels[:, None]).squeeze(1)

        return guided_denoiser(
            denoise, log_probability, scale=guidance.scale, sigma_interval=guidance.sigma_interval
        )


def decode(latents):
    grey = (latents.mean(dim=1, keepdim=True) * 40 + 128).round().clamp(0, 255).to(torch.uint8)
    return grey.repeat(1, 3, 2, 2)


NETWORKS = Networks(gaussian_denoise, None, MeanGuide(), decode, SHAPE, "cpu")


def drawing(scale=0.0, sampler=None, seed=0):
    return Drawing(
        SIGMAS,
        sampler or HeunSampler(type="heun"),
        GuidanceConfig(scale=scale, sigma_interval=(0.05, 5.0)),
        None,
        None,
        seed,
    )


@pytest.mark.parametrize(
    "sampler", [HeunSampler(type="heun"), DdimSampler(type="ddim", eta=1.0)], ids=["heun", "ddim"]
)
def test_draw_does_not_depend_on_the_batch(sampler):
    settings = drawing(scale=2.0, sampler=sampler)
    together = draw(NETWORKS, settings, range(6))
    apart = [draw(NETWORKS, settings, [number]) for number in range(6)]
    np.testing.assert_array_equal(
        together.pixels_BHWC, np.concatenate([one.pixels_BHWC for one in apart])
    )
    np.testing.assert_allclose(
        together.log_prob_B, np.concatenate([one.log_prob_B for one in apart]), rtol=1e-5
    )


def test_draw_other_seed_gives_other_samples():
    first, second = (draw(NETWORKS, drawing(seed=seed), range(2)).pixels_BHWC for seed in (0, 1))
    assert (first != second).any()


def test_draw_guidance_raises_the_probability_of_the_label():
    unguided = draw(NETWORKS, drawing(scale=0.0), range(64)).log_prob_B
    guided = draw(NETWORKS, drawing(scale=4.0), range(64)).log_prob_B
    assert np.exp(unguided).mean() == pytest.approx(0.5, abs=0.15)
    assert np.exp(guided).mean() > 0.8


def write(path, *, shards, batch=4, settings=None):
    plan = StorePlan(
        path=path, classes=("a", "b"), num_samples=10, shard_size=4, batch=batch, threads=1,
        provenance={
            "seed": 0, "guide": "g", "guidance_scale": 2.0, "sampler": json.dumps({}),
            "denoiser": "d", "decoder_sha256": "x",
        },
    )  # fmt: skip
    worker = Synthesizer(plan, networks=NETWORKS, drawing=settings or drawing(scale=2.0))
    for shard in shards:
        worker.run(shard)


def opened(path):
    finish_store(
        path, finished_shards(path).values(), classes=("a", "b"), image_px=8, mpp=None,
        encoder_sha256="e", decoder_sha256="x",
    )  # fmt: skip
    return SampleStore.open(path)


def test_synthesizer_interrupted_and_resumed_store_equals_undisturbed(tmp_path):
    whole, resumed = storage_path(tmp_path / "whole"), storage_path(tmp_path / "resumed")
    write(whole, shards=range(3))
    write(resumed, shards=[2])
    write(resumed, shards=[number for number in range(3) if number not in finished_shards(resumed)])
    assert finished_shards(whole) == finished_shards(resumed)
    for name in ("000000", "000001", "000002"):
        file = f"shards/{name}.parquet"
        assert (whole / file).read_bytes() == (resumed / file).read_bytes()


def test_synthesizer_rows_say_how_each_sample_was_made(tmp_path):
    write(storage_path(tmp_path), shards=range(3), batch=3)
    store = opened(storage_path(tmp_path))
    assert store.rows["sample"].to_pylist() == list(range(10))
    assert store.labels == ["a", "b"] * 5
    assert set(store.rows["guidance_scale"].to_pylist()) == {2.0}
    np.testing.assert_array_equal(
        store.read_pixels(range(10)), draw(NETWORKS, drawing(scale=2.0), range(10)).pixels_BHWC
    )


def test_shard_samples_cover_every_sample_once():
    shards = [
        list(shard_samples(number, num_samples=10, shard_size=4))
        for number in range(num_shards(10, shard_size=4))
    ]
    assert shards == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
