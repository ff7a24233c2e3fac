"""``classify``: which images are learned from, that slides do not leak, and what is reported."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from histodiff.artifacts import Reference, open_artifact
from histodiff.data_prep.index.dev_splits import DevSplit
from histodiff.data_prep.index.patch_index import PatchIndex, write_patch_index
from histodiff.errors import ArtifactNotFound, ConfigError
from histodiff.evaluation.metrics import CALIBRATION, METRICS, Scored, metric_values
from histodiff.runtime.interim import StoppedEarly, listening
from histodiff.samples import Selection
from histodiff.workflows.classify import classify, estimate
from histodiff.workflows.guide import guide
from histodiff.workflows.labels import opened_index, opened_store
from histodiff.workflows.select import select
from tests.support.labelled_chain import make_patches
from tests.support.labelled_configs import (
    classify_config,
    guide_config,
    select_config,
)
from tests.support.optimization import optimization


@pytest.fixture
def patches(site, tmp_path):
    make_patches(site, tmp_path / "images")
    return site


@pytest.fixture
def chain(sampled):
    select(select_config(rule={"type": "random"}), sampled)
    return sampled


def metrics_of(artifact):
    return json.loads((artifact.path / "metrics.json").read_bytes())


def test_classify_separable_classes_are_learned_and_reported(patches):
    training = optimization(steps=40, batch=16, lr=1.0e-2)
    artifact = classify(classify_config(training=training), patches)
    metrics = metrics_of(artifact)
    assert set(metrics["patch"]) == set(metrics["slide"]) == {*METRICS, *CALIBRATION}
    assert metrics["patch"]["balanced_accuracy"] > 0.9
    low, high = metrics["patch_interval"]["accuracy"]
    assert low <= metrics["patch"]["accuracy"] <= high
    assert (metrics["test_patches"], metrics["test_slides"]) == (16, 4)
    assert metrics["positive"] == "cancer"
    rows = pq.read_table(str(artifact.path / "predictions.parquet")).to_pylist()
    table = [row for row in rows if row["split"] == "test"]
    right = np.mean([row["label"] == row["predicted"] for row in table])
    assert right == pytest.approx(metrics["patch"]["accuracy"])
    assert {row["slide_id"] for row in table} == {"slide-04", "slide-05", "slide-10", "slide-11"}


def test_classify_scores_every_split_and_the_manifest_says_so(patches):
    artifact = classify(classify_config(), patches)
    metrics = metrics_of(artifact)
    assert metrics["test"]["patch"] == metrics["patch"]
    assert metrics["test"]["slide_interval"] == metrics["slide_interval"]
    assert metrics["val"]["patch"] != metrics["test"]["patch"]
    assert (metrics["val"]["patches"], metrics["val"]["slides"]) == (8, 2)
    contents = artifact.manifest.contents
    for name in ("balanced_accuracy", "auc", "log_loss"):
        assert contents[f"val_{name}"] == metrics["val"]["patch"][name]
    assert contents["balanced_accuracy"] == metrics["test"]["patch"]["balanced_accuracy"]


def test_classify_predictions_are_enough_for_every_metric(patches):
    artifact = classify(classify_config(), patches)
    rows = pq.read_table(str(artifact.path / "predictions.parquet")).to_pylist()
    index = PatchIndex.open(patches.storage_root / "patches" / "toy" / "v1")
    classes = index.classes
    for split in ("val", "test"):
        own = [row for row in rows if row["split"] == split]
        scored = Scored(
            np.array([[row[f"probability.{label}"] for label in classes] for row in own]),
            np.array([classes.index(row["label"]) for row in own]),
            tuple(row["slide_id"] for row in own),
        )
        assert metric_values(scored, positive=1) == metrics_of(artifact)[split]["patch"]
    for row in rows:
        patch = index.patches.slice(row["patch"], 1).to_pylist()[0]
        for key in ("slide_id", "patient_id", "split", "label"):
            assert row[key] == patch[key]


def test_classify_without_test_never_reads_a_test_patch(patches, tmp_path):
    index = PatchIndex.open(patches.storage_root / "patches" / "toy" / "v1")
    for row in index.patches.to_pylist():
        if row["split"] == "test":
            (tmp_path / "images" / row["path"]).unlink()
    artifact = classify(classify_config(splits=["val"]), patches)
    metrics = metrics_of(artifact)
    assert not artifact.manifest.failed
    assert metrics["splits"] == ["val"]
    assert not {"patch", "slide", "test", "test_patches"} & set(metrics)
    assert not {"balanced_accuracy", "auc", "test_patches"} & set(artifact.manifest.contents)
    rows = pq.read_table(str(artifact.path / "predictions.parquet"))
    assert set(rows["split"].to_pylist()) == {"val"}


def test_classify_same_weights_whatever_is_scored(patches):
    first, second = (
        classify(classify_config(name="-".join(splits), splits=splits), patches)
        for splits in (["val"], ["test"])
    )
    key = "weights.safetensors"
    assert first.manifest.files[key] == second.manifest.files[key]


def test_classify_split_named_twice_is_refused():
    with pytest.raises(ConfigError, match="name each split once"):
        classify_config(splits=["val", "val"])


def test_classify_and_guide_pick_the_same_labels(chain):
    same = classify(classify_config(), chain).manifest.contents["labels_sha256"]
    assert guide(guide_config(), chain).manifest.contents["labels_sha256"] == same


def test_classify_other_seed_takes_other_labels(patches):
    budget = {"type": "patches", "count": 8}
    first, second = (
        classify(classify_config(name=f"s{seed}", budget=budget, seed=seed), patches)
        for seed in (0, 1)
    )
    key = "labels_sha256"
    assert first.manifest.contents[key] != second.manifest.contents[key]


@pytest.mark.parametrize(
    "budget",
    [
        {"type": "slides_per_class", "count": 1},
        {"type": "fraction", "fraction": 0.3},
        {"type": "patches", "count": 6},
        {"type": "all"},
    ],
    ids=lambda budget: budget["type"],
)
def test_classify_and_guide_pick_the_same_labels_for_every_budget(chain, budget):
    steered = guide(guide_config(name="b", budget=budget, seed=3), chain)
    trained = classify(classify_config(name="b", budget=budget, seed=3), chain)
    key = "labels_sha256"
    assert steered.manifest.contents[key] == trained.manifest.contents[key]


def test_classify_adds_the_first_accepted_samples_up_to_the_ratio(chain):
    config = classify_config(name="more", samples="toy@v1", selection="toy@v1", synthetic_ratio=0.5)
    metrics = metrics_of(classify(config, chain))
    assert metrics["real"] == {"benign": 8, "cancer": 8}
    assert metrics["synthetic"] == {"benign": 4, "cancer": 4}
    accepted = Selection.open(chain.storage_root / "selections" / "toy" / "v1").accepted()
    assert accepted.slice(0, 8)["label"].to_pylist() == ["benign", "cancer"] * 4


def test_classify_shortage_of_samples_is_recorded(chain):
    config = classify_config(name="most", samples="toy@v1", selection="toy@v1", synthetic_ratio=3.0)
    metrics = metrics_of(classify(config, chain))
    assert metrics["synthetic_wanted"] == 48
    assert sum(metrics["synthetic"].values()) == 24


def test_classify_same_config_gives_the_same_weights(patches):
    first, second = (classify(classify_config(name=name), patches) for name in ("a", "b"))
    assert (
        first.manifest.files["weights.safetensors"] == second.manifest.files["weights.safetensors"]
    )


def test_classify_patient_in_two_splits_is_refused(patches):
    path = patches.storage_root / "patches" / "toy" / "v1"
    index = PatchIndex.open(path)
    patients = ["same"] * index.patches.num_rows
    place = index.patches.column_names.index("patient_id")
    leaking = index.patches.set_column(place, "patient_id", [patients])
    write_patch_index(
        path,
        replace(index, patches=leaking),
    )
    with pytest.raises(ConfigError, match="share"):
        classify(classify_config(), patches)


def test_classify_selection_without_samples_is_refused():
    with pytest.raises(ConfigError, match="together"):
        classify_config(selection="toy@v1")


def test_classify_unreadable_training_patch_is_named_and_left_out(patches, tmp_path):
    index = PatchIndex.open(patches.storage_root / "patches" / "toy" / "v1")
    broken = next(row["path"] for row in index.patches.to_pylist() if row["split"] == "test")
    (tmp_path / "images" / broken).write_bytes(b"no image")
    artifact = classify(classify_config(), patches)
    assert [issue.unit.rpartition("/")[2] for issue in artifact.manifest.failed] == [broken]
    assert metrics_of(artifact)["test_patches"] == 15


def test_estimate_counts_images(patches):
    assert estimate(classify_config(), patches) == {
        "real": 16, "synthetic": 0, "val_patches": 8, "test_patches": 16, "steps": 8,
    }  # fmt: skip


def test_dev_split_gives_index_and_store_the_same_new_division(encoded):
    dev_split = DevSplit(val=0.4)
    divisions = set()
    for seed in range(4):
        opened = [
            open_artifact(encoded.storage_root, Reference(f"{kind}/toy@v1"))
            for kind in ("patches", "latents")
        ]
        index = opened_index(opened[0], dev_split=dev_split, seed=seed)
        store = opened_store(opened[1], dev_split=dev_split, seed=seed)
        splits = index.patches["split"].take(store.rows["patch"]).to_pylist()
        assert splits == store.rows["split"].to_pylist()
        assert {splits[row] for row in store.rows_of_split("val")} == {"val"}
        divisions.add(tuple(splits))
    assert len(divisions) > 1


def test_classify_with_a_dev_split_scores_its_validation_and_the_same_test(patches):
    tables = []
    for name, dev_split in (("plain", None), ("redrawn", {"val": 0.4, "seed": 5})):
        artifact = classify(classify_config(name=name, dev_split=dev_split), patches)
        rows = pq.read_table(str(artifact.path / "predictions.parquet")).to_pylist()
        tables.append(
            {
                split: {r["slide_id"] for r in rows if r["split"] == split}
                for split in ("val", "test")
            }
        )
    assert tables[0]["test"] == tables[1]["test"]
    assert tables[0]["val"] != tables[1]["val"]
    assert not tables[1]["val"] & tables[1]["test"]


def test_guide_of_another_division_than_the_classifiers_is_refused(chain):
    with pytest.raises(ConfigError, match="other labels"):
        classify(
            classify_config(
                samples="toy@v1",
                selection="toy@v1",
                synthetic_ratio=1.0,
                dev_split={"val": 0.4, "seed": 5},
            ),
            chain,
        )


class Watching:
    """Takes interim metrics at every step, and may stop the training at one."""

    def __init__(self, stop_at=None):
        self.shares, self.values, self._stop_at = [], [], stop_at

    def offer(self, share, measure):
        self.shares.append(share)
        self.values.append(measure()["val_balanced_accuracy"])
        if self._stop_at is not None and share >= self._stop_at:
            raise StoppedEarly


def test_classify_that_is_watched_gives_the_same_classifier(patches):
    files = []
    watching = Watching()
    for name, listener in (("alone", None), ("watched", watching)):
        with listening(listener):
            artifact = classify(classify_config(name=name), patches)
        files.append([(artifact.path / name).read_bytes() for name in WRITTEN])
    assert files[0] == files[1]
    assert watching.shares == [step / 8 for step in range(1, 8)]
    assert all(0 <= value <= 1 for value in watching.values)


def test_classify_that_was_stopped_early_is_not_finished_and_can_be_finished(patches):
    with pytest.raises(StoppedEarly), listening(Watching(stop_at=0.5)):
        classify(classify_config(name="stopped"), patches)
    address = classify_config(name="stopped").output
    with pytest.raises(ArtifactNotFound, match="is not finished"):
        open_artifact(patches.storage_root, address)
    later = classify(classify_config(name="stopped"), patches)
    whole = classify(classify_config(name="whole"), patches)
    for name in WRITTEN:
        assert (later.path / name).read_bytes() == (whole.path / name).read_bytes()


WRITTEN = ("weights.safetensors", "predictions.parquet", "metrics.json")
