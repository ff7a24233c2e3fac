"""``guide``: the labelled subset, the encoder check, and the report by noise level."""

import json

import pyarrow.parquet as pq
import pytest

from histodiff.errors import ArtifactDrift, ArtifactError, ConfigError
from histodiff.guidance.kinds import load_guide
from histodiff.samples import SampleStore
from histodiff.workflows.guide import estimate, guide
from histodiff.workflows.synthesize import synthesize
from tests.support.labelled_chain import make_autoencoder, make_denoiser, make_latents
from tests.support.labelled_configs import guide_config, synthesize_config
from tests.support.optimization import optimization


def no_denoiser(snapshot):
    raise AssertionError(f"{snapshot}: a latent guide reads no features")


def test_guide_writes_classifier_losses_and_accuracy_by_sigma(encoded):
    artifact = guide(guide_config(), encoded)
    assert load_guide(artifact.path, no_denoiser, "cpu").classes == ("benign", "cancer")
    metrics = json.loads((artifact.path / "metrics.json").read_bytes())
    assert metrics["labelled"] == {"benign": 8, "cancer": 8}  # two slides of four patches each
    bins = metrics["accuracy_by_sigma"]
    assert [score["num"] for score in bins] == [8, 8]  # one validation slide per class
    assert bins[0]["sigma_high"] == pytest.approx(bins[1]["sigma_low"])
    assert pq.read_table(str(artifact.path / "losses.parquet"))["step"].to_pylist() == [3]
    assert guide(guide_config(), encoded).manifest.fingerprint == artifact.manifest.fingerprint


def test_guide_latents_of_another_encoder_are_refused_and_nothing_is_planned(encoded):
    make_autoencoder(encoded, seed=1, name="other")
    make_latents(encoded, autoencoder="other@v1", name="other")
    with pytest.raises(ArtifactError, match="encoder") as caught:
        guide(guide_config(latents="other@v1"), encoded)
    assert "\n" not in str(caught.value)
    guide(guide_config(), encoded)  # the same name, mended: no drift


def test_guide_latents_of_another_patch_size_are_refused(encoded):
    make_denoiser(encoded, name="larger", patch_px=64)
    with pytest.raises(ConfigError, match="patch_px: 64"):
        guide(guide_config(denoiser="larger@v1"), encoded)


def test_guide_budget_beyond_the_slides_is_refused(encoded):
    with pytest.raises(ConfigError, match=r"lower budget\.count"):
        guide(guide_config(budget={"type": "slides_per_class", "count": 4}), encoded)


def test_guide_other_seed_under_the_same_name_is_drift(encoded):
    guide(guide_config(), encoded)
    with pytest.raises(ArtifactDrift, match="seed"):
        guide(guide_config(seed=1), encoded)


def test_estimate_counts_labels(encoded):
    assert estimate(guide_config(), encoded) == {"labelled_latents": 16, "steps": 3}


FEATURES = {
    "type": "features",
    "network": {"layers": ["mid_block"], "width": 4},
    "training": {
        **optimization(steps=3, batch=4, lr=1.0e-3),
        "noise": {"type": "log_uniform", "sigma_min": 0.05, "sigma_max": 5.0},
    },
    "calibration": {"folds": 2, "draws": 1},
}


def test_guide_of_features_is_trained_calibrated_and_steers(encoded):
    artifact = guide(guide_config(name="features", kind=FEATURES), encoded)
    assert artifact.manifest.contents["sigmas"] == pytest.approx([0.05, 5.0])
    temperatures = json.loads((artifact.path / "temperatures.json").read_bytes())
    assert len(temperatures["values"]) == 2
    drawn = synthesize(synthesize_config(name="by-features", guide="features@v1"), encoded)
    assert SampleStore.open(drawn.path).counts() == {"benign": 5, "cancer": 5}


def test_guide_of_features_of_an_unknown_snapshot_is_refused(encoded):
    with pytest.raises(ConfigError, match=r"snapshot images-1: .* it has last"):
        guide(guide_config(name="features", kind=FEATURES, snapshot="images-1"), encoded)


def test_guidance_beyond_the_noise_that_a_guide_knows_is_refused(encoded):
    guide(guide_config(), encoded)
    wide = {"scale": 1.0, "sigma_interval": [0.05, 8.0]}
    with pytest.raises(ConfigError, match=r"sigma_interval \[0\.05, 8\].* from 0\.05 to 5;"):
        synthesize(synthesize_config(guidance=wide), encoded)
