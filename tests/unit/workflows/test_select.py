"""``select``: the labelled subset alone decides, and the random control matches its counts."""

import numpy as np
import pytest
from PIL import Image

from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.samples import Selection
from histodiff.workflows.classify import classify
from histodiff.workflows.guide import guide
from histodiff.workflows.select import select
from histodiff.workflows.synthesize import synthesize
from tests.support.given_weights import timm_extractor
from tests.support.labelled_chain import make_chain
from tests.support.labelled_configs import (
    classify_config,
    guide_config,
    select_config,
    synthesize_config,
)


def test_select_centroid_records_every_sample_with_a_reason(sampled):
    artifact = select(select_config(), sampled)
    selection = Selection.open(artifact.path)
    rows = selection.rows.to_pylist()
    assert len(rows) == 24
    for row in rows:
        assert row["accepted"] == (row["nearest"] == row["label"]) == (row["reason"] == "ACCEPTED")
        assert -1 <= row["real_similarity"] <= 1 + 1e-9
    assert artifact.manifest.contents["accepted"] == sum(row["accepted"] for row in rows)


def test_select_never_looks_at_validation_or_test_patches(site, tmp_path):
    make_chain(site, tmp_path / "images")
    guide(guide_config(), site)
    synthesize(synthesize_config(), site)
    classify(classify_config(), site)
    index = PatchIndex.open(site.storage_root / "patches" / "toy" / "v1")
    before = select(select_config(), site).manifest.content_sha256
    for row in index.patches.to_pylist():
        if row["split"] != "train":
            Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "images" / row["path"])
    assert select(select_config(name="again"), site).manifest.content_sha256 == before


def test_select_random_matches_the_counts_of_a_selection(sampled):
    chosen = Selection.open(select(select_config(), sampled).path)
    rule = {"type": "random", "match": "toy@v1"}
    matched = Selection.open(select(select_config(name="random", rule=rule), sampled).path)
    assert matched.counts() == chosen.counts()


def test_select_with_other_labels_than_the_guide_is_refused(sampled):
    budget = {"type": "slides_per_class", "count": 1}
    with pytest.raises(ConfigError, match="other labels"):
        select(select_config(budget=budget), sampled)


def test_select_features_of_a_classifier_that_saw_samples_are_refused(sampled):
    select(select_config(), sampled)
    mixed = classify_config(name="mixed", samples="toy@v1", selection="toy@v1", synthetic_ratio=1.0)
    classify(mixed, sampled)
    rule = {"type": "centroid", "classifier": "mixed@v1", "max_per_class": 4}
    with pytest.raises(ConfigError, match="real images only"):
        select(select_config(name="again", rule=rule), sampled)


def test_select_timm_network_as_extractor_needs_no_classifier(sampled, tmp_path):
    given = timm_extractor(tmp_path)
    extractor = {key: given[key] for key in ("model", "pretrained", "input_px")}
    rule = {"type": "centroid", "extractor": extractor, "max_per_class": 3}
    selection = Selection.open(select(select_config(rule=rule), sampled).path)
    assert max(selection.counts().values()) <= 3


def test_select_random_weights_as_extractor_are_refused():
    extractor = {"model": "test_resnet", "pretrained": {"type": "none"}, "input_px": 32}
    rule = {"type": "centroid", "extractor": extractor, "max_per_class": 3}
    with pytest.raises(ConfigError, match="random weights"):
        select_config(rule=rule)


def test_select_from_samples_without_labels_is_refused(sampled):
    free = {"guide": None, "per_class": None, "guidance": None, "num_samples": 4}
    synthesize(synthesize_config(name="free", **free), sampled)
    with pytest.raises(ConfigError, match="made without labels"):
        select(select_config(samples="free@v1"), sampled)
