"""``guide``: every kind is trained, judged beside chance, and steers; what each may know."""

import json
import math

import pytest

from histodiff.artifacts import Kind, Reference, open_artifact
from histodiff.errors import ArtifactError, ConfigError
from histodiff.samples import SampleStore
from histodiff.workflows import guide as command
from histodiff.workflows.classify import classify
from histodiff.workflows.guide import estimate, guide
from histodiff.workflows.synthesize import synthesize
from tests.support.labelled_chain import (
    make_autoencoder,
    make_denoiser,
    make_latents,
    make_patches,
)
from tests.support.labelled_configs import classify_config, guide_config, synthesize_config
from tests.support.optimization import optimization

NOISE = {"type": "log_uniform", "sigma_min": 0.05, "sigma_max": 5.0}
TRAINING = optimization(steps=3, batch=4, lr=1.0e-3)
CALIBRATION = {"folds": 2, "draws": 1}
NETWORK = {"channels": [8], "head_dim": 8}
KINDS = {
    "features": {
        "type": "features",
        "network": {
            "type": "logistic", "layers": [["mid_block"], ["up_blocks.0"]], "noise": NOISE,
            "draws": 1,
        },
        "calibration": CALIBRATION,
    },
    "latent": {
        "type": "latent", "network": NETWORK, "lengths": [0.5, 1.0],
        "training": {**TRAINING, "noise": NOISE, "mixing": 0.4}, "calibration": CALIBRATION,
    },
    "adapter": {
        "type": "adapter", "network": {"rank": 1}, "training": {**TRAINING, "noise": NOISE},
        "bayes": {"levels": 2}, "calibration": CALIBRATION,
    },
    "clean": {
        "type": "clean", "network": NETWORK, "training": TRAINING, "noise": NOISE,
        "used_on": "denoised", "calibration": CALIBRATION,
    },
}  # fmt: skip


def trained(site, kind, **changes):
    return guide(guide_config(name=kind, kind=KINDS[kind], **changes), site)


def metrics_of(artifact):
    return json.loads((artifact.path / "metrics.json").read_bytes())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_judged_beside_chance_and_steers(encoded, kind):
    artifact = trained(encoded, kind)
    metrics = metrics_of(artifact)
    assert metrics["chance"] == {
        "balanced_accuracy": 0.5, "auc": 0.5, "log_loss": pytest.approx(math.log(2)),
    }  # fmt: skip
    for table, num in (("cross_fitted_by_sigma", 16), ("accuracy_by_sigma", 8)):
        assert [score["num"] for score in metrics[table]] == [num, num]
        for score in metrics[table]:
            assert 0 <= score["ece"] <= 1
            assert 0 <= score["auc"] <= 1
            assert 0 <= score["balanced_accuracy"] <= 1
    assert all(s["log_loss"] < math.log(2) + 1e-4 for s in metrics["cross_fitted_by_sigma"])
    contents = artifact.manifest.contents
    assert contents["sigmas"] == pytest.approx([0.05, 5.0])
    assert contents["cross_fitted"]["log_loss"] == min(
        score["log_loss"] for score in metrics["cross_fitted_by_sigma"]
    )
    assert set(contents["val"]) == set(contents["cross_fitted"])
    drawn = synthesize(synthesize_config(name=f"by-{kind}", guide=f"{kind}@v1"), encoded)
    assert SampleStore.open(drawn.path).counts() == {"benign": 5, "cancer": 5}


@pytest.mark.parametrize("kind", KINDS)
def test_same_config_gives_the_same_guide_to_the_byte(encoded, kind):
    first = trained(encoded, kind)
    again = guide(guide_config(name=f"{kind}-again", kind=KINDS[kind]), encoded)
    for file in ("weights.safetensors", "temperatures.json", "metrics.json"):
        assert (first.path / file).read_bytes() == (again.path / file).read_bytes(), file


def test_choice_among_candidates_is_in_the_metrics(encoded):
    assert set(metrics_of(trained(encoded, "features"))["chosen"]["log_loss_of_layers"]) == {
        "mid_block", "up_blocks.0",
    }  # fmt: skip
    chosen = metrics_of(trained(encoded, "latent"))["chosen"]
    assert str(chosen["length"]).rstrip("0").rstrip(".") in chosen["log_loss_of_lengths"]
    assert metrics_of(trained(encoded, "clean"))["chosen"] == {}


@pytest.mark.parametrize(("kind", "steps"), [("features", 0), ("latent", 3), ("adapter", 3)])
def test_estimate_counts_the_steps_of_each_kind(encoded, kind, steps):
    found = estimate(guide_config(name=kind, kind=KINDS[kind]), encoded)
    assert found == {"labelled_latents": 16, "steps": steps}


class _Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["latent", "adapter", "features"])
def test_guide_killed_after_its_training_resumes_to_the_same_bytes(encoded, kind, monkeypatch):
    undisturbed = guide(guide_config(name=f"{kind}-whole", kind=KINDS[kind]), encoded)

    def killed(*args, **kwargs):
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(command, "save_guide", killed)
        with pytest.raises(_Killed):
            trained(encoded, kind)
    resumed = trained(encoded, kind)
    for file in ("weights.safetensors", "metrics.json", "losses.parquet"):
        assert (resumed.path / file).read_bytes() == (undisturbed.path / file).read_bytes()


def pseudo(latents="toy@v1", **changes):
    teacher = {"type": "guide", "guide": "features@v1", "views": 2, **changes}
    return {**KINDS["adapter"], "pseudo_labels": {"latents": latents, "teacher": teacher}}


def taught_by_soft_labels(site, *, count=2, **changes):
    budget = {"type": "slides_per_class", "count": count}
    return guide(guide_config(name="soft", kind=pseudo(**changes), budget=budget), site)


PERCEPTRON = {
    "type": "features", "network": {"layers": ["mid_block"]}, "calibration": None,
    "training": {**TRAINING, "noise": NOISE},
}  # fmt: skip


def taught_by_classifier(site, kind="latent", *, patches="toy@v1", classifier="teacher@v1"):
    teacher = {"type": "classifier", "classifier": classifier, "patches": patches}
    soft = {"latents": "toy@v1", "teacher": teacher, "share": 0.9}
    taught = {**{**KINDS, "perceptron": PERCEPTRON}[kind], "pseudo_labels": soft}
    return guide(guide_config(name=f"{kind}-taught", kind=taught), site)


def teacher(site, **changes):
    linear = {"method": {"type": "colour_histogram"}, "backbone": None, "training": None}
    budget = {"type": "slides_per_class", "count": 2}
    calibrated = {"calibration": {"folds": 2}, "budget": budget, "splits": ["val"]}
    return classify(classify_config(name="teacher", **{**linear, **calibrated, **changes}), site)


def test_adapter_learns_from_soft_labels_of_another_guide(encoded):
    trained(encoded, "features")
    found = taught_by_soft_labels(encoded)
    assert set(found.manifest.inputs) == {
        "latents/toy@v1", "denoisers/toy@v1", "guides/features@v1",
    }  # fmt: skip
    alone = trained(encoded, "adapter")
    assert (found.path / "weights.safetensors").read_bytes() != (
        alone.path / "weights.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("kind", ["latent", "adapter", "perceptron"])
def test_guide_learns_what_a_classifier_says_of_latents_without_labels(encoded, kind):
    teacher(encoded)
    found = taught_by_classifier(encoded, kind)
    assert {"classifiers/teacher@v1", "patches/toy@v1"} < set(found.manifest.inputs)
    alone = guide(
        guide_config(name="alone", kind={**KINDS, "perceptron": PERCEPTRON}[kind]), encoded
    )
    assert (found.path / "weights.safetensors").read_bytes() != (
        alone.path / "weights.safetensors"
    ).read_bytes()


def test_classifier_that_may_not_teach_is_refused(encoded, tmp_path):
    teacher(encoded, calibration=None)
    with pytest.raises(ConfigError, match=r"is not calibrated.* calibration"):
        taught_by_classifier(encoded)
    teacher(encoded, version="v2", budget={"type": "fraction", "fraction": 0.5})
    with pytest.raises(ConfigError, match="was made with other labels"):
        taught_by_classifier(encoded, classifier="teacher@v2")
    teacher(encoded, version="v3")
    make_patches(encoded, tmp_path / "other", name="other")
    with pytest.raises(ConfigError, match="was not encoded from patches/other@v1"):
        taught_by_classifier(encoded, classifier="teacher@v3", patches="other@v1")


def test_regressions_learn_from_labels_alone():
    soft = pseudo()["pseudo_labels"]
    with pytest.raises(ConfigError, match="logistic learns from labels alone"):
        guide_config(kind={**KINDS["features"], "pseudo_labels": soft})


def test_soft_labels_of_a_guide_of_another_kind_or_other_labels_are_refused(encoded):
    trained(encoded, "latent")
    with pytest.raises(ConfigError, match=r"is of kind latent; name a guide of kind features"):
        taught_by_soft_labels(encoded, guide="latent@v1")
    trained(encoded, "features")
    with pytest.raises(ConfigError, match="was made with other labels"):
        taught_by_soft_labels(encoded, count=1)


def test_soft_labels_of_a_guide_of_another_denoiser_are_refused(encoded):
    make_denoiser(encoded, name="other")
    trained(encoded, "features", denoiser="other@v1")
    with pytest.raises(ConfigError, match="was not trained for denoisers/toy@v1"):
        taught_by_soft_labels(encoded)


def test_soft_labels_of_latents_of_another_encoder_are_refused(encoded):
    trained(encoded, "features")
    make_autoencoder(encoded, seed=1, name="other")
    make_latents(encoded, autoencoder="other@v1", name="other")
    with pytest.raises(ArtifactError, match="encoder"):
        taught_by_soft_labels(encoded, latents="other@v1")


def test_soft_labels_of_a_guide_without_calibration_need_a_noise_level(encoded):
    plain = {**KINDS["features"], "calibration": None}
    guide(guide_config(name="features", kind=plain), encoded)
    with pytest.raises(ConfigError, match=r"name kind\.pseudo_labels\.teacher\.sigma"):
        taught_by_soft_labels(encoded)
    taught_by_soft_labels(encoded, sigma=0.3)
    assert open_artifact(encoded.storage_root, Reference("soft@v1").as_kind(Kind.GUIDES))


def test_noise_levels_of_every_kind_bound_its_guidance(encoded):
    trained(encoded, "adapter")
    wide = {"scale": 1.0, "sigma_interval": [0.05, 8.0]}
    with pytest.raises(ConfigError, match=r"sigma_interval \[0\.05, 8\].* from 0\.05 to 5;"):
        synthesize(synthesize_config(guide="adapter@v1", guidance=wide), encoded)


@pytest.mark.parametrize(
    ("head", "training", "told"),
    [
        (KINDS["features"]["network"], {**TRAINING, "noise": NOISE}, "remove training"),
        ({"layers": ["mid_block"]}, None, "needs training"),
    ],
)
def test_head_and_training_that_do_not_go_together_are_refused(head, training, told):
    with pytest.raises(ConfigError, match=told):
        guide_config(kind={"type": "features", "network": head, "training": training})


def test_guidance_may_reach_beyond_all_that_the_denoiser_knows(encoded):
    whole = {**KINDS["clean"], "noise": {"type": "objective"}}
    guide(guide_config(name="whole", kind=whole), encoded)
    everywhere = {"scale": 1.0, "sigma_interval": [0.0, 1000.0]}
    drawn = synthesize(synthesize_config(guide="whole@v1", guidance=everywhere), encoded)
    assert SampleStore.open(drawn.path).counts() == {"benign": 5, "cancer": 5}


def by_validation(kind):
    return {**KINDS[kind], "calibration": {**CALIBRATION, "slides": "validation"}}


@pytest.mark.parametrize("kind", KINDS)
def test_guide_calibrated_on_validation_slides_looks_at_no_sibling(encoded, kind):
    artifact = guide(guide_config(name=kind, kind=by_validation(kind)), encoded)
    metrics = metrics_of(artifact)
    assert metrics["calibrated_on"] == "validation"
    assert metrics["cross_fitted_by_sigma"] == []
    assert artifact.manifest.contents["cross_fitted"] is None
    assert len(json.loads((artifact.path / "temperatures.json").read_bytes())["values"]) == 2
    left = [path.name for path in artifact.path.glob("scratch/*")]
    assert not any(name.endswith(("-0", "-1")) for name in left if "features" not in name)


def test_validation_latents_that_are_judged_can_be_fewer(encoded):
    found = trained(encoded, "clean", validation_latents=5)
    assert [score["num"] for score in metrics_of(found)["accuracy_by_sigma"]] == [5, 5]
    assert found.manifest.contents["val_latents"] == 5


def test_soft_labels_are_asked_where_validation_found_the_guide_best(encoded):
    teacher = guide(guide_config(name="features", kind=by_validation("features")), encoded)
    best = min(metrics_of(teacher)["accuracy_by_sigma"], key=lambda score: score["log_loss"])
    weights = [
        (
            guide(guide_config(name=name, kind=pseudo(sigma=sigma)), encoded).path
            / "weights.safetensors"
        ).read_bytes()
        for name, sigma in (("by-itself", None), ("best", middle(best)))
    ]
    assert weights[0] == weights[1]


def middle(score):
    return math.sqrt(score["sigma_low"] * score["sigma_high"])
