"""Methods of ``classify``, what may be added, and who may guess labels."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.splits import AllLabels
from histodiff.errors import ConfigError
from histodiff.models.classifier import load_classifier
from histodiff.workflows.classify import classify, estimate
from histodiff.workflows.classify.config import CalibrationConfig
from histodiff.workflows.classify.opened import open_classifier
from histodiff.workflows.guide import guide
from histodiff.workflows.select import select
from tests.support.labelled_chain import make_patches, make_pool
from tests.support.labelled_configs import classify_config, guide_config, select_config
from tests.support.optimization import optimization

COLOUR = {"type": "colour_histogram", "bins": 16}
PROBE = {
    "type": "denoiser_features", "denoiser": "toy@v1", "autoencoder": "toy@v1",
    "layers": ["mid_block", "up_blocks.0"], "sigmas": [0.2, 1.0],
}  # fmt: skip
FEW = {"type": "slides_per_class", "count": 2}


@pytest.fixture
def patches(site, tmp_path):
    make_patches(site, tmp_path / "images")
    return site


def linear_config(method=COLOUR, **changes):
    return classify_config(
        **{"method": method, "backbone": None, "training": None, "budget": FEW, **changes}
    )


def metrics_of(artifact):
    return json.loads((artifact.path / "metrics.json").read_bytes())


def index_of(site):
    return PatchIndex.open(site.storage_root / "patches" / "toy" / "v1")


def added_table(artifact):
    return pq.read_table(str(artifact.path / "added.parquet")).to_pylist()


def test_colour_histogram_tells_the_colours_apart_and_opens_again(patches, tmp_path):
    artifact = classify(linear_config(), patches)
    assert metrics_of(artifact)["test"]["patch"]["balanced_accuracy"] > 0.9
    assert artifact.manifest.contents["method"] == "colour_histogram"
    opened = open_classifier(artifact, patches.storage_root, batch=4, device="cpu")
    row = pq.read_table(str(artifact.path / "predictions.parquet")).to_pylist()[0]
    path = index_of(patches).patches.slice(row["patch"], 1).to_pylist()[0]["path"]
    pixels = np.asarray(Image.open(tmp_path / "images" / path))[None]
    found = opened.predict(pixels)[0]
    np.testing.assert_allclose(found, [row[f"probability.{label}"] for label in opened.classes])


def test_denoiser_features_are_those_of_the_pixels_whatever_the_batch(encoded):
    first = classify(linear_config(PROBE, name="one"), encoded)
    second = classify(linear_config(PROBE, name="other", eval_batch=3), encoded)
    one, other = (
        np.array(pq.read_table(str(artifact.path / "predictions.parquet"))["probability.cancer"])
        for artifact in (first, second)
    )
    np.testing.assert_allclose(one, other, atol=1e-3)
    assert first.manifest.inputs.keys() >= {"denoisers/toy@v1", "autoencoders/toy@v1"}


def test_denoiser_features_unknown_layer_is_named(encoded):
    with pytest.raises(ConfigError, match=r"method\.layers=middle: no such layer"):
        classify(linear_config({**PROBE, "layers": ["middle"]}), encoded)


def test_linear_method_refuses_the_blocks_of_a_network():
    with pytest.raises(ConfigError, match="take `backbone`, `training` away"):
        classify_config(method=COLOUR)
    with pytest.raises(ConfigError, match="network needs `training`"):
        classify_config(training=None)


def test_estimate_of_a_linear_method_has_no_steps(patches):
    assert "steps" not in estimate(linear_config(), patches)


def test_linear_tuning_leaves_the_backbone_as_it_was_given(patches, tmp_path):
    scratch = classify(classify_config(name="given"), patches)
    given = load_classifier(scratch.path, device="cpu").classifier
    weights = tmp_path / "weights.pth"
    torch.save(given.backbone.state_dict(), weights)
    backbone = {
        "model": "test_resnet", "input_px": 32,
        "pretrained": {
            "type": "file", "path": str(weights),
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        },
    }  # fmt: skip
    tuned = {}
    for kind in ("linear", "full"):
        config = classify_config(
            name=kind, backbone=backbone, method={"type": "network", "tuning": {"type": kind}}
        )
        tuned[kind] = load_classifier(classify(config, patches).path, device="cpu").classifier
    start = given.backbone.state_dict()
    changed = {
        kind: {
            name for name, value in model.backbone.state_dict().items()
            if not torch.equal(value, start[name])
        }
        for kind, model in tuned.items()
    }  # fmt: skip
    assert changed["linear"] == {"fc.weight", "fc.bias"}
    assert len(changed["full"]) > 10


def self_supervised(**changes):
    steps = optimization(steps=4, batch=8, lr=1.0e-3)
    method = {"type": "self_supervised", "pretraining": {**steps, "projection": 8}, **changes}
    return linear_config(
        method,
        backbone={"model": "test_resnet", "pretrained": {"type": "none"}, "input_px": 32},
    )


def test_self_supervised_encoder_depends_on_no_label(patches, tmp_path):
    make_pool(patches, tmp_path / "pool")
    config = self_supervised(pool="pool@v1")
    one, other = (
        load_classifier(classify(each, patches).path, device="cpu").classifier.state_dict()
        for each in (
            config.model_copy(update={"name": "two"}),
            config.model_copy(update={"name": "all", "budget": AllLabels(type="all")}),
        )
    )  # fmt: skip
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    assert differing == {"backbone.fc.weight", "backbone.fc.bias"}


def test_self_supervised_is_calibrated_by_heads_of_one_encoder(patches):
    plain = classify(self_supervised(), patches)
    config = self_supervised().model_copy(
        update={"name": "calibrated", "calibration": CalibrationConfig(folds=2)}
    )
    calibrated = classify(config, patches)
    key = "weights.safetensors"
    assert plain.manifest.files[key] == calibrated.manifest.files[key]
    assert open_classifier(calibrated, patches.storage_root, batch=8, device="cpu").temperature


def test_self_supervised_network_is_taken_and_its_head_is_not(patches):
    trained = classify(self_supervised().model_copy(update={"name": "encoder"}), patches)
    method = {"type": "self_supervised", "encoder": "encoder@v1"}
    same = classify(linear_config(method, name="same"), patches)
    assert "classifiers/encoder@v1" in same.manifest.inputs
    assert weights_of(same).keys() == weights_of(trained).keys()
    for name, weight in weights_of(trained).items():
        torch.testing.assert_close(weights_of(same)[name], weight, rtol=0, atol=0)
    every = classify(linear_config(method, name="all", budget={"type": "all"}), patches)
    one, other = weights_of(same), weights_of(every)
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    assert differing == {"backbone.fc.weight", "backbone.fc.bias"}


def weights_of(artifact):
    return load_classifier(artifact.path, device="cpu").classifier.state_dict()


def test_network_that_knows_labels_is_no_self_supervised_one(patches):
    classify(classify_config(name="knowing"), patches)
    method = {"type": "self_supervised", "encoder": "knowing@v1"}
    with pytest.raises(ConfigError, match="whose network knows labels"):
        classify(linear_config(method), patches)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoder": "encoder@v1"}, "and not both"),
        ({"pretraining": None}, "and not both"),
        ({"pretraining": None, "encoder": "e@v1", "pool": "p@v1"}, "take `pool`"),
        ({"pretraining": None, "encoder": "encoder@v1"}, "uses no `backbone`"),
    ],
)
def test_self_supervised_is_trained_or_taken(changes, told):
    with pytest.raises(ConfigError, match=told):
        self_supervised(**changes)


def test_self_supervised_is_a_network_like_any_other(patches):
    artifact = classify(self_supervised(), patches)
    opened = open_classifier(artifact, patches.storage_root, batch=8, device="cpu")
    assert opened.classes == ("benign", "cancer")
    rows = pq.read_table(str(artifact.path / "losses.parquet")).num_rows
    assert rows >= 1
    assert metrics_of(artifact)["test"]["patch"]["balanced_accuracy"] > 0.6


def test_tuning_that_does_not_fit_the_weights_is_refused():
    with pytest.raises(ConfigError, match="`full` and `linear` from weights"):
        classify_config(method={"type": "network", "tuning": {"type": "linear"}})


def test_calibration_uses_no_label_beyond_the_budget_and_spares_the_weights(patches):
    plain = classify(linear_config(name="plain"), patches)
    calibrated = classify(linear_config(name="calibrated", calibration={"folds": 2}), patches)
    key = "weights.safetensors"
    assert plain.manifest.files[key] == calibrated.manifest.files[key]
    opened = open_classifier(calibrated, patches.storage_root, batch=8, device="cpu")
    assert opened.temperature > 0
    assert metrics_of(plain)["val"]["patch"]["auc"] == metrics_of(calibrated)["val"]["patch"]["auc"]
    network = classify(classify_config(name="network", calibration={"folds": 2}), patches)
    assert open_classifier(network, patches.storage_root, batch=8, device="cpu").temperature > 0


def test_calibration_with_something_added_is_refused():
    with pytest.raises(ConfigError, match="labelled patches alone"):
        classify_config(calibration={"folds": 2}, added={"type": "stand_ins"}, synthetic_ratio=1.0)


def test_added_without_a_ratio_is_refused():
    with pytest.raises(ConfigError, match="together"):
        classify_config(added={"type": "stand_ins"})
    with pytest.raises(ConfigError, match="not both"):
        classify_config(
            added={"type": "stand_ins"}, samples="toy@v1", selection="toy@v1", synthetic_ratio=1.0
        )


ONE = {"type": "slides_per_class", "count": 1}


def test_stand_ins_have_true_labels_of_other_slides(patches):
    config = classify_config(added={"type": "stand_ins"}, synthetic_ratio=1.0, budget=ONE)
    artifact = classify(config, patches)
    metrics = metrics_of(artifact)
    assert metrics["added_right"] == 1.0
    assert metrics["synthetic"] == {"benign": 4, "cancer": 4}
    assert artifact.manifest.contents["synthetic"] == 0
    assert artifact.manifest.contents["added"] == 8
    rows = index_of(patches).patches.take([row["patch"] for row in added_table(artifact)])
    assert set(rows["split"].to_pylist()) == {"train"}


def teacher(site, **changes):
    config = linear_config(name="teacher", budget=FEW, calibration={"folds": 2}, **changes)
    return classify(config, site)


def pseudo(**changes):
    judge = {"type": "classifier", "classifier": "teacher@v1"}
    return {"type": "pseudo_labels", "teacher": judge, **changes}


def test_pseudo_labels_are_what_the_calibrated_teacher_says(patches, tmp_path):
    judge = open_classifier(teacher(patches), patches.storage_root, batch=8, device="cpu")
    config = classify_config(name="arm", added=pseudo(), synthetic_ratio=0.25, budget=FEW)
    artifact = classify(config, patches)
    table = added_table(artifact)
    assert len(table) == 4
    assert metrics_of(artifact)["synthetic"] == {"benign": 2, "cancer": 2}
    index = index_of(patches).patches.to_pylist()
    for row in table:
        patch = index[row["patch"]]
        assert patch["split"] == "train"
        pixels = np.asarray(Image.open(tmp_path / "images" / patch["path"]))[None]
        np.testing.assert_allclose(
            [row["target.benign"], row["target.cancer"]], judge.predict(pixels)[0], atol=1e-6
        )


def test_pseudo_labels_never_touch_the_budget_nor_held_out_slides(patches):
    teacher(patches)
    config = linear_config(name="arm", added=pseudo(), synthetic_ratio=10.0)
    artifact = classify(config, patches)
    labelled = 16
    train = [row for row in index_of(patches).patches.to_pylist() if row["split"] == "train"]
    assert len(added_table(artifact)) == len(train) - labelled
    assert metrics_of(artifact)["synthetic_wanted"] == 160


def test_pseudo_labels_of_a_guide(encoded):
    guide(guide_config(name="judge"), encoded)
    judge = {
        "type": "guide", "guide": "judge@v1", "denoiser": "toy@v1", "autoencoder": "toy@v1",
        "sigmas": [0.1, 1.0],
    }  # fmt: skip
    config = classify_config(
        name="arm", added=pseudo(teacher=judge, weighting="confidence"), synthetic_ratio=0.5
    )
    table = added_table(classify(config, encoded))
    assert len(table) == 8
    totals = [row["target.benign"] + row["target.cancer"] for row in table]
    assert max(totals) < 1.0  # an untrained guide is not sure
    beyond = {**judge, "sigmas": [50.0]}
    config = classify_config(name="far", added=pseudo(teacher=beyond), synthetic_ratio=0.5)
    with pytest.raises(ConfigError, match="noise levels"):
        classify(config, encoded)


def test_pseudo_labels_teacher_without_calibration_or_of_other_labels_is_refused(patches):
    classify(linear_config(name="teacher"), patches)
    config = classify_config(name="arm", added=pseudo(), synthetic_ratio=1.0)
    with pytest.raises(ConfigError, match="not calibrated"):
        classify(config, patches)
    other = classify_config(name="arm", added=pseudo(), synthetic_ratio=1.0, budget=ONE)
    with pytest.raises(ConfigError, match="other labels"):
        classify(other, patches)


def test_retrieval_takes_what_looks_like_the_labelled_patches(patches, tmp_path):
    make_pool(patches, tmp_path / "pool")
    added = {
        "type": "retrieval", "pool": "pool@v1",
        "extractor": {"type": "random_features", "input_px": 32},
    }  # fmt: skip
    artifact = classify(classify_config(added=added, synthetic_ratio=0.5), patches)
    table = added_table(artifact)
    assert len({row["patch"] for row in table}) == len(table) == 8
    labels = index_of(patches).patches["label"].to_pylist()
    source = PatchIndex.open(patches.storage_root / "patches" / "source" / "v1")
    for row in table:
        label = labels[row["looks_like"]]
        assert row[f"target.{label}"] == 1.0
    truth = source.patches["label"].to_pylist()
    right = [truth[row["patch"]] == labels[row["looks_like"]] for row in table]
    assert np.mean(right) >= 0.75
    assert metrics_of(artifact)["added_right"] is None


def test_pool_that_shares_slides_with_what_is_scored_is_refused(patches, tmp_path):
    teacher(patches)
    make_pool(patches, tmp_path / "pool", prefix="")
    config = classify_config(name="arm", added=pseudo(pool="pool@v1"), synthetic_ratio=1.0)
    with pytest.raises(ConfigError, match="share 6 slide_ids with validation or test"):
        classify(config, patches)


def test_retrieval_from_the_target_itself_leaves_out_what_the_budget_holds(patches):
    added = {
        "type": "retrieval", "pool": "toy@v1",
        "extractor": {"type": "random_features", "input_px": 32},
    }  # fmt: skip
    artifact = classify(linear_config(added=added, synthetic_ratio=10.0, budget=ONE), patches)
    train = [row for row in index_of(patches).patches.to_pylist() if row["split"] == "train"]
    assert len(added_table(artifact)) == len(train) - 8
    assert metrics_of(artifact)["added_right"] > 0.7


def test_samples_as_a_tag_equal_the_fields_of_before(sampled):
    select(select_config(rule={"type": "random"}), sampled)
    old = classify_config(name="old", samples="toy@v1", selection="toy@v1", synthetic_ratio=1.0)
    new = classify_config(
        name="new", synthetic_ratio=1.0,
        added={"type": "samples", "samples": "toy@v1", "selection": "toy@v1"},
    )  # fmt: skip
    first, second = (classify(config, sampled) for config in (old, new))
    key = "weights.safetensors"
    assert first.manifest.files[key] == second.manifest.files[key]
    assert first.manifest.contents["synthetic"] == second.manifest.contents["added"] == 16
