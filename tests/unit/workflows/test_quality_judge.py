"""A classifier of real patches that says what samples show: wiring, what it is worth, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from histodiff.artifacts import Reference, open_artifact
from histodiff.classification.training import predicted_probability
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.errors import ArtifactCorrupt, ConfigError
from histodiff.models.classifier import load_classifier
from histodiff.samples import SampleStore
from histodiff.workflows.classify import classify
from histodiff.workflows.quality.judging import Drawn, checked_judge, judged
from histodiff.workflows.quality.patches import patch_source
from histodiff.workflows.report import ReportConfig, report
from histodiff.workflows.sweep import SweepConfig
from histodiff.workflows.sweep.grid import expand
from histodiff.workflows.sweep.trial_table import sample_metrics
from histodiff.workflows.synthesize import synthesize
from tests.support.labelled_configs import classify_config, synthesize_config

CLASSES = ("benign", "cancer")
ALL = ("train", "val", "test")
DRAWN = Drawn(image_px=32, classes=CLASSES, labels_sha256=None)


def config(name="judged", judge="real@v1", **changes):
    quality = {
        "extractor": {"type": "random_features", "input_px": 32}, "real": "toy@v1",
        "real_splits": list(ALL), "replicates": 20, "judge": judge,
    }  # fmt: skip
    return synthesize_config(**{"name": name, "per_class": 12, "quality": quality, **changes})


def colour_judge(site, **changes):
    return classify(
        classify_config(
            name="colour", method={"type": "colour_histogram"}, backbone=None, training=None,
            **changes,
        ),
        site,
    )  # fmt: skip


def source(site, splits=ALL):
    artifact = open_artifact(site.storage_root, Reference("patches/toy@v1"))
    return patch_source(artifact, splits=splits, limit=None, seed=0, owner="quality.real")


def pixels_and_labels(site, rows):
    index = PatchIndex.open(site.storage_root / Reference("patches/toy@v1").folder)
    labels = index.patches["label"].take(rows).to_pylist()
    return PatchReader(index).read([int(row) for row in rows]).pixels, labels


def said_of_real(site, artifact, splits, *, swapped=False):
    """Real patches of some splits as samples, judged beside the same patches as real ones."""
    judge = checked_judge(artifact, site.storage_root, DRAWN, source(site, splits))
    pixels, labels = pixels_and_labels(site, judge.held_out.rows)
    other = dict(zip(CLASSES, reversed(CLASSES), strict=True))
    asked = [other[label] for label in labels] if swapped else labels
    return judged(judge, [pixels], asked, batch=8, replicates=20, seed=0, device="cpu")


def test_synthesize_says_what_a_classifier_calls_its_samples(sampled):
    artifact = synthesize(config(), sampled)
    found = artifact.manifest.contents["agreement"]
    store = SampleStore.open(artifact.path)
    judge = open_artifact(sampled.storage_root, Reference("classifiers/real@v1"))
    loaded = load_classifier(judge.path, device="cpu")
    said = predicted_probability(
        loaded.classifier, store.read_pixels(range(24)), batch=8, device="cpu"
    )
    asked = np.array([loaded.classes.index(label) for label in store.labels])
    assert found["share"]["value"] == pytest.approx((said.argmax(axis=1) == asked).mean())
    assert found["mean_probability"]["value"] == pytest.approx(said[np.arange(24), asked].mean())
    assert found["num_samples"] == 24
    assert {k: sum(row.values()) for k, row in found["confusion"].items()} == dict.fromkeys(
        CLASSES, 12
    )
    assert json.loads((artifact.path / "metrics.json").read_bytes())["agreement"] == found
    assert artifact.manifest.inputs["classifiers/real@v1"] == judge.manifest.fingerprint
    assert (found["judge"], found["judge_labels"]) == ("classifiers/real@v1", 16)
    metrics = sample_metrics(sampled.storage_root, artifact.reference)
    assert metrics["samples.agreement_share"] == found["share"]["value"]
    assert metrics["samples.agreement_mean_probability"] == found["mean_probability"]["value"]


def test_a_judge_changes_no_sample_and_no_other_measure(sampled):
    with_judge = synthesize(config(), sampled)
    without = synthesize(config(name="alone", judge=None), sampled)
    assert "agreement" not in without.manifest.contents
    assert without.manifest.contents["quality"] == with_judge.manifest.contents["quality"]
    np.testing.assert_array_equal(
        *(SampleStore.open(one.path).read_pixels(range(24)) for one in (with_judge, without))
    )


def test_judge_is_worth_what_it_does_on_slides_that_it_did_not_learn_from(sampled):
    artifact = synthesize(config(), sampled)
    found = artifact.manifest.contents["agreement"]
    real, loaded = found["real"], load_classifier(
        sampled.storage_root / Reference("classifiers/real@v1").folder, device="cpu"
    )  # fmt: skip
    # of 12 slides of 4 patches, it learned from two of each class
    assert (real["num_patches"], real["num_groups"], found["num_real_known_to_judge"]) == (
        32,
        8,
        16,
    )
    judge = open_artifact(sampled.storage_root, Reference("classifiers/real@v1"))
    rows = checked_judge(judge, sampled.storage_root, DRAWN, source(sampled)).held_out.rows
    pixels, labels = pixels_and_labels(sampled, rows)
    said = predicted_probability(loaded.classifier, pixels, batch=8, device="cpu").argmax(axis=1)
    expected = balanced_accuracy_score([loaded.classes.index(label) for label in labels], said)
    assert real["balanced_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("method", ["network", "colour_histogram"])
def test_real_patches_as_samples_agree_as_often_as_the_judge_is_right(sampled, method):
    network = open_artifact(sampled.storage_root, Reference("classifiers/real@v1"))
    artifact = network if method == "network" else colour_judge(sampled)
    found = said_of_real(sampled, artifact, ("test",))
    assert found["share"]["value"] == pytest.approx(found["real"]["balanced_accuracy"])
    assert found["mean_probability"]["value"] == pytest.approx(found["real"]["mean_probability"])
    swapped = said_of_real(sampled, artifact, ("test",), swapped=True)
    assert swapped["share"]["value"] == pytest.approx(1 - found["share"]["value"])
    if method == "colour_histogram":
        assert found["share"]["value"] > 0.9  # classes of the toy patches are colours


def test_judge_that_learned_from_every_slide_has_no_bar(sampled):
    artifact = colour_judge(sampled, budget={"type": "slides_per_class", "count": 3})
    judge = checked_judge(artifact, sampled.storage_root, DRAWN, source(sampled, ("train",)))
    pixels, labels = pixels_and_labels(sampled, np.arange(4))
    found = judged(judge, [pixels], labels, batch=8, replicates=20, seed=0, device="cpu")
    assert (found["real"], found["num_real_known_to_judge"]) == (None, 24)


def test_judge_of_another_division_does_not_know_what_it_learned_from_as_held_out(sampled):
    artifact = colour_judge(sampled, dev_split={"val": 0.34}, seed=3)
    judge = checked_judge(artifact, sampled.storage_root, DRAWN, source(sampled, ("train", "val")))
    learned = artifact.manifest.contents["real"]
    assert judge.num_known == learned == 16
    assert len(judge.held_out.rows) == 32 - learned


def test_judge_of_the_same_labels_is_told_apart_from_one_of_others(sampled):
    guide = open_artifact(sampled.storage_root, Reference("guides/toy@v1"))
    drawn = replace(DRAWN, labels_sha256=guide.manifest.contents["labels_sha256"])
    of_all = colour_judge(sampled, budget={"type": "slides_per_class", "count": 3})
    of_same = open_artifact(sampled.storage_root, Reference("classifiers/real@v1"))
    found = [
        checked_judge(artifact, sampled.storage_root, drawn, source(sampled)).same_labels
        for artifact in (of_same, of_all)
    ]
    assert found == [True, False]


def changed_manifest(site, change):
    path = site.storage_root / Reference("classifiers/real@v1").folder / "manifest.json"
    record = json.loads(path.read_bytes())
    change(record)
    path.write_text(json.dumps(record))


def refused(site, asked, error, message):
    with pytest.raises(error, match=message):
        synthesize(asked, site)
    assert not (site.storage_root / asked.output.folder).exists()


def test_judge_that_knows_samples_is_refused(sampled):
    changed_manifest(sampled, lambda record: record["contents"].update(synthetic=4))
    refused(
        sampled, config(), ConfigError, "quality.judge .* trained on synthetic images too; name"
    )


def test_judge_of_other_classes_is_refused(sampled):
    path = sampled.storage_root / Reference("classifiers/real@v1").folder / "model.json"
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({**record, "classes": ["benign", "other"]}))
    refused(sampled, config(), ConfigError, "tells benign, other apart, the samples are of benign")


def test_samples_of_one_class_are_not_judged(sampled):
    asked = config(guide=None, guidance=None, per_class=None, num_samples=24)
    refused(sampled, asked, ConfigError, r"have one \(unconditional\); draw with a guide")


def test_judge_of_patches_of_another_size_is_refused(sampled):
    judge = open_artifact(sampled.storage_root, Reference("classifiers/real@v1"))
    drawn = Drawn(image_px=64, classes=CLASSES, labels_sha256=None)
    with pytest.raises(ConfigError, match="learned from patches of 32 px, samples have 64 px"):
        checked_judge(judge, sampled.storage_root, drawn, source(sampled))


def test_judge_whose_labels_are_others_now_is_refused(sampled):
    changed_manifest(sampled, lambda record: record["contents"].update(labels_sha256="else"))
    refused(sampled, config(), ArtifactCorrupt, "learned from other labels than patches/toy@v1")


def test_report_shows_what_a_classifier_calls_the_samples(sampled):
    artifact = synthesize(config(), sampled)
    found = artifact.manifest.contents["agreement"]
    values = {"name": "r", "version": "v1", "title": "t", "samples": ["judged@v1"]}
    made = report(parse_config(ReportConfig, values, source="test"), sampled)
    shown = json.loads((made.path / "report.json").read_text())["quality"][0]["judged"]
    page = (made.path / "report.html").read_text()
    assert f"calls {found['share']['value']:.1%} of 24 samples what they were" in shown["sentence"]
    assert f"{found['real']['balanced_accuracy']:.1%}" in shown["sentence"]
    assert "32 real patches of 8 slides or patients" in shown["sentence"]
    assert "no independent judge" in shown["sentence"]
    assert shown["sentence"] in page
    assert [tuple(row["counts"]) for row in shown["rows"]] == [
        tuple(found["confusion"][label].values()) for label in CLASSES
    ]
    assert "Called cancer" in page


def values_of(asked, *without):
    left_out = {"name", "version", *without}
    return {
        key: value for key, value in asked.model_dump(mode="json").items() if key not in left_out
    }


def test_sweep_over_the_guidance_scale_gives_every_trial_the_judge_of_its_seed():
    """A judge that is a step is trained for each seed once, whatever the scale."""
    plan = parse_config(SweepConfig, {
        "name": "agreement", "version": "v1",
        "artifacts": {
            "patches": "patches/toy@v1", "denoiser": "denoisers/toy@v1",
            "autoencoder": "autoencoders/toy@v1", "guide": "guides/toy@v1",
        },
        "steps": {
            "judge": {
                "command": "classify", "config": values_of(classify_config(), "patches"),
                "from": {"patches": "patches"},
            },
            "synthesize": {
                "command": "synthesize",
                "config": values_of(config(), "guide", "denoiser", "autoencoder"),
                "from": {
                    "guide": "guide", "denoiser": "denoiser", "autoencoder": "autoencoder",
                    "quality.real": "patches", "quality.judge": "judge",
                },
            },
        },
        "search": {"scale": {"sets": ["synthesize.guidance.scale"], "values": [0.0, 1.0, 4.0]}},
        "seeds": [0, 1], "arms": [{"label": "judge", "step": "judge"}], "control": "judge",
    }, source="test")  # fmt: skip
    trials = expand(plan, {})
    judges = {trial.seed: trial.config.output for trial in trials if trial.step == "judge"}
    drawn = [trial for trial in trials if trial.step == "synthesize"]
    assert (len(judges), len(drawn)) == (2, 6)
    for trial in drawn:
        assert trial.config.inputs()["quality.judge"] == judges[trial.seed]
        assert trial.config.guidance.scale == trial.axes["scale"]
