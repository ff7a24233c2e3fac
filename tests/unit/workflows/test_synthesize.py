"""``synthesize``: resumption, provenance, and the checks of its inputs."""

import json
from dataclasses import replace

import numpy as np
import pytest

from histodiff.artifacts import Kind, Reference, open_artifact
from histodiff.errors import ArtifactError, ConfigError
from histodiff.latents import LatentStore
from histodiff.models.denoiser import load_denoiser, save_snapshot
from histodiff.samples import SampleStore
from histodiff.synthesis import worker
from histodiff.workflows.networks import snapshot_path
from histodiff.workflows.synthesize import estimate, synthesize
from tests.support.labelled_chain import make_autoencoder, make_denoiser
from tests.support.labelled_configs import BUDGET, synthesize_config


def test_synthesize_writes_every_class_with_provenance(sampled):
    artifact = synthesize(synthesize_config(name="five"), sampled)
    store = SampleStore.open(artifact.path)
    assert store.counts() == {"benign": 5, "cancer": 5}
    assert store.read_pixels([0, 9]).shape == (2, 32, 32, 3)
    assert set(store.rows["guidance_scale"].to_pylist()) == {1.0}
    assert set(store.rows["decoder_sha256"].to_pylist()) == {store.header.decoder_sha256}


def test_synthesize_interrupted_and_resumed_equals_undisturbed(sampled, monkeypatch):
    whole = synthesize(synthesize_config(name="five"), sampled)
    drawn = worker.draw_latents
    calls = []

    def interrupted(networks, drawing, samples):
        calls.append(samples)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return drawn(networks, drawing, samples)

    monkeypatch.setattr(worker, "draw_latents", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthesize(synthesize_config(name="again"), sampled)
    folder = sampled.storage_root / Reference.of(Kind.SAMPLES, "again", "v1").folder
    assert len(list((folder / "shards").iterdir())) == 2
    again = synthesize(synthesize_config(name="again"), sampled)
    assert again.manifest.content_sha256 == whole.manifest.content_sha256
    assert calls == [range(4), range(4, 8), range(8, 10), range(8, 10)]


def test_synthesize_larger_request_begins_with_the_smaller_one(sampled):
    small = SampleStore.open(synthesize(synthesize_config(name="small", per_class=2), sampled).path)
    large = SampleStore.open(synthesize(synthesize_config(name="large", per_class=4), sampled).path)
    np.testing.assert_array_equal(small.read_pixels(range(4)), large.read_pixels(range(4)))


def test_synthesize_without_guidance_differs_from_guided(sampled):
    guided = synthesize(synthesize_config(name="five"), sampled)
    free = synthesize(
        synthesize_config(name="free", guidance={"scale": 0.0, "sigma_interval": [0.05, 5.0]}),
        sampled,
    )
    first, second = (
        SampleStore.open(artifact.path).read_pixels(range(10)) for artifact in (guided, free)
    )
    assert (first != second).any()


def test_synthesize_autoencoder_with_another_encoder_is_refused(sampled):
    make_autoencoder(sampled, seed=1, name="other")
    with pytest.raises(ArtifactError, match="encoder"):
        synthesize(synthesize_config(name="five", autoencoder="other@v1"), sampled)


def test_synthesize_guide_of_another_denoiser_is_refused(sampled):
    make_denoiser(sampled, name="other")
    with pytest.raises(ConfigError, match="train a guide"):
        synthesize(synthesize_config(name="five", denoiser="other@v1"), sampled)


def test_synthesize_draws_with_the_snapshot_that_is_named(sampled):
    whole = synthesize(synthesize_config(name="five"), sampled)
    denoiser = sampled.storage_root / Reference.of(Kind.DENOISERS, "toy", "v1").folder
    loaded = load_denoiser(snapshot_path(denoiser), device="cpu")
    state = {name: tensor + 0.1 for name, tensor in loaded.denoiser.state_dict().items()}
    save_snapshot(snapshot_path(denoiser, "last-64"), loaded.denoiser, loaded.info, state=state)
    other = synthesize(synthesize_config(name="slower", snapshot="last-64"), sampled)
    pictures = [SampleStore.open(found.path).read_pixels(range(10)) for found in (whole, other)]
    assert (pictures[0] != pictures[1]).any()


def test_synthesize_unknown_snapshot_is_refused_with_those_that_exist(sampled):
    with pytest.raises(ConfigError, match=r"snapshot last-64: .* it has last$"):
        synthesize(synthesize_config(name="five", snapshot="last-64"), sampled)


def test_estimate_counts_samples_and_shards(sampled):
    planned = estimate(synthesize_config(), sampled)
    assert planned == {"samples": 10, "shards": 3, "denoiser_calls_per_sample": 3}


VARIED = {"latents": "toy@v1", "budget": BUDGET, "sigmas": [0.3, 1.0]}


def unguided_config(**changes):
    return synthesize_config(
        guide=None, per_class=None, guidance=None, **{"name": "free", "num_samples": 10, **changes}
    )


def test_synthesize_without_a_guide_draws_what_a_guide_that_does_not_act_draws(sampled):
    free = synthesize(unguided_config(), sampled)
    idle = synthesize(
        synthesize_config(name="idle", guidance={"scale": 0.0, "sigma_interval": [0.05, 5.0]}),
        sampled,
    )
    first, second = (SampleStore.open(found.path) for found in (free, idle))
    np.testing.assert_array_equal(first.read_pixels(range(10)), second.read_pixels(range(10)))
    assert first.counts() == {"unconditional": 10}
    assert first.rows["guide"].to_pylist() == ["none"] * 10
    assert free.manifest.contents["labels_sha256"] is None
    assert not [name for name in free.manifest.inputs if name.startswith("guides/")]


def test_estimate_without_a_guide_counts_samples(sampled):
    assert estimate(unguided_config(), sampled)["samples"] == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guide": None}, "`guide` and `guidance` belong together"),
        ({"guidance": None}, "`guide` and `guidance` belong together"),
        ({"guide": None, "per_class": None, "guidance": None}, "give `num_samples`"),
        ({"guide": None, "guidance": None}, "give `num_samples`, and no `per_class`"),
        ({"num_samples": 5}, "no `num_samples`"),
        ({"per_class": None}, "give `per_class`"),
        ({"guide": None, "guidance": None, "num_samples": 5, "variation": VARIED}, "no `num_s"),
        ({"variation": {**VARIED, "sigmas": []}}, "sigmas"),
    ],
)
def test_config_says_what_belongs_together(changes, message):
    with pytest.raises(ConfigError, match=message):
        synthesize_config(**changes)


def test_synthesize_with_a_weaker_snapshot_is_driven_away_from_it(sampled):
    denoiser = sampled.storage_root / Reference.of(Kind.DENOISERS, "toy", "v1").folder
    loaded = load_denoiser(snapshot_path(denoiser), device="cpu")
    state = {name: tensor + 0.02 for name, tensor in loaded.denoiser.state_dict().items()}
    save_snapshot(snapshot_path(denoiser, "images-32"), loaded.denoiser, loaded.info, state=state)
    weak = {"snapshot": "images-32", "sigma_interval": [0.0, 100.0]}
    pictures, made_by = [], []
    for name, scale in (("off", 1.0), ("on", 3.0)):
        config = unguided_config(name=name, autoguidance={**weak, "scale": scale})
        store = SampleStore.open(synthesize(config, sampled).path)
        pictures.append(store.read_pixels(range(10)))
        made_by.append(json.loads(store.rows["sampler"][0].as_py())["autoguidance"]["scale"])
    plain = SampleStore.open(synthesize(unguided_config(), sampled).path).read_pixels(range(10))
    np.testing.assert_array_equal(pictures[0], plain)
    assert (pictures[1] != plain).any()
    assert made_by == [1.0, 3.0]
    assert estimate(config, sampled)["denoiser_calls_per_sample"] == 6


def test_synthesize_autoguided_by_itself_or_by_another_whitening_is_refused(sampled):
    guidance = {"scale": 2.0, "sigma_interval": [0.0, 100.0]}
    with pytest.raises(ConfigError, match="autoguidance needs a weaker denoiser"):
        unguided_config(autoguidance=guidance)
    with pytest.raises(ConfigError, match=r"snapshot images-1: .* it has last$"):
        synthesize(unguided_config(autoguidance={**guidance, "snapshot": "images-1"}), sampled)
    make_denoiser(sampled, name="other")
    path = snapshot_path(sampled.storage_root / Reference.of(Kind.DENOISERS, "other", "v1").folder)
    loaded = load_denoiser(path, device="cpu")
    wider = replace(loaded.info, whitening_scale=[2 * v for v in loaded.info.whitening_scale])
    save_snapshot(path, loaded.denoiser, wider)
    with pytest.raises(ConfigError, match="whitens latents otherwise"):
        synthesize(unguided_config(autoguidance={**guidance, "denoiser": "other@v1"}), sampled)


def test_synthesize_varies_labelled_latents_and_says_which(sampled):
    config = synthesize_config(name="varied", guide=None, guidance=None, variation=VARIED)
    artifact = synthesize(config, sampled)
    store = SampleStore.open(artifact.path)
    assert store.counts() == {"benign": 5, "cancer": 5}
    assert set(store.rows["start_sigma"].to_pylist()) == {0.3, 1.0}
    target = LatentStore.open(
        open_artifact(sampled.storage_root, config.inputs()["variation.latents"]).path
    )
    labels = dict(
        zip(target.rows["patch"].to_pylist(), target.rows["label"].to_pylist(), strict=True)
    )
    found = store.rows["source_patch"].to_pylist()
    assert [labels[patch] for patch in found] == store.labels
    splits = dict(
        zip(target.rows["patch"].to_pylist(), target.rows["split"].to_pylist(), strict=True)
    )
    assert {splits[patch] for patch in found} == {"train"}
    guide = open_artifact(sampled.storage_root, Reference.of(Kind.GUIDES, "toy", "v1"))
    assert artifact.manifest.contents["labels_sha256"] == guide.manifest.contents["labels_sha256"]
    assert estimate(config, sampled)["samples"] == 10


def test_synthesize_varies_and_steers_with_the_same_labels_only(sampled):
    both = synthesize(synthesize_config(name="both", variation=VARIED), sampled)
    assert SampleStore.open(both.path).counts() == {"benign": 5, "cancer": 5}
    other = {**VARIED, "budget": {"type": "slides_per_class", "count": 1}}
    with pytest.raises(ConfigError, match=r"guide .* and variation of .* saw different labels"):
        synthesize(synthesize_config(name="mixed", variation=other), sampled)
