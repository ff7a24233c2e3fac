"""``select`` by criteria in combination: planted copies, planted noise, cross-fitted confidence."""

import io
import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from histodiff.artifacts import Kind, Reference, begin, open_artifact
from histodiff.config import load_config
from histodiff.config.loader import shipped_configs
from histodiff.data_prep.index.dev_splits import DevSplit
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.errors import ConfigError
from histodiff.runtime.symmetries import square_symmetry
from histodiff.samples import SampleStore, Selection, finish_store, finished_shards, write_shard
from histodiff.samples.schema import SAMPLE_COLUMNS
from histodiff.workflows.classify import classify
from histodiff.workflows.labels import LABELS_SHA256, opened_index
from histodiff.workflows.select import SelectConfig, select
from histodiff.workflows.select.copies import training_images
from histodiff.workflows.select.lineage import Seen
from histodiff.workflows.sweep import SweepConfig
from histodiff.workflows.sweep.grid import expand
from tests.support.given_weights import timm_extractor
from tests.support.labelled_chain import CLASSES, MadeConfig, make_denoiser
from tests.support.labelled_configs import classify_config, select_config
from tests.support.optimization import optimization

CLASSIFIER = {"type": "classifier", "classifier": "real@v1"}
AGREEMENT = {"type": "agreement", "extractor": CLASSIFIER}
COPIES = {"type": "copies", "extractor": CLASSIFIER}
NETWORK = {
    "type": "network",
    "backbone": {"model": "test_resnet", "pretrained": {"type": "none"}, "input_px": 32},
    "training": optimization(steps=12, batch=8, lr=3.0e-3),
}


class MadeSamples(MadeConfig):
    """Samples that a test plants, as if drawn by the toy denoiser with the toy guide."""

    artifact_kind = Kind.SAMPLES


def index_of(site):
    return PatchIndex.open(site.storage_root / Reference("patches/toy@v1").folder)


def patches_of(site, split):
    """Numbers, classes and pixels of the patches of a split."""
    index = index_of(site)
    rows = [n for n, own in enumerate(index.patches["split"].to_pylist()) if own == split]
    labels = index.patches["label"].take(rows).to_pylist()
    return rows, labels, PatchReader(index).read(rows).pixels


def plant(site, pixels, labels, *, name="planted", sources=None, inputs=("denoiser", "guide")):
    """A finished SampleStore of these images."""
    root = site.storage_root
    count = len(pixels)
    columns = {key: [""] * count for key in SAMPLE_COLUMNS.names}
    columns |= {"sample": list(range(count)), "label": list(labels), "seed": [0] * count,
                "guidance_scale": [1.0] * count, "guide_log_prob": [0.0] * count}  # fmt: skip
    if sources is not None:
        columns |= {"source_patch": sources, "start_sigma": [1.0] * count}
    read = {key: open_artifact(root, Reference(f"{key}s/toy@v1")) for key in inputs}
    draft = begin(root, MadeSamples(name=name, version="v1"), inputs=read)
    write_shard(draft.path, 0, columns=columns, pixels_NHWC=np.asarray(pixels, np.uint8))
    header = finish_store(
        draft.path, finished_shards(draft.path).values(), classes=CLASSES, image_px=32, mpp=1.0,
        encoder_sha256="e", decoder_sha256="d",
    )  # fmt: skip
    sha = open_artifact(root, Reference("classifiers/real@v1")).manifest.contents[LABELS_SHA256]
    return draft.finish(
        {"samples": count, "per_class": count // 2, "image_px": header.image_px, LABELS_SHA256: sha}
    )


def all_of(*rules, **changes):
    values = {"type": "all_of", "rules": list(rules), "rank_by": "random", "max_per_class": 4,
              "oversampling": 0}  # fmt: skip
    return {**values, **changes}


def chosen(site, rule, *, name="planted", **changes):
    config = select_config(name=name, samples=f"{name}@v1", rule=rule, **changes)
    artifact = select(config, site)
    return artifact, Selection.open(artifact.path)


def test_all_of_planted_copies_are_found_and_named(sampled):
    train, train_labels, train_pixels = patches_of(sampled, "train")
    _, labels, innocent = patches_of(sampled, "test")
    copied = [0, 7, 13]
    turned = [square_symmetry(train_pixels[[row]], turn)[0] for turn, row in enumerate(copied, 1)]
    plant(sampled, [*innocent, *turned], [*labels, *(train_labels[row] for row in copied)])
    artifact, selection = chosen(sampled, all_of(COPIES, rank_by="copies", max_per_class=100))
    rows = selection.rows.to_pylist()
    found = rows[-len(copied) :]
    assert [row["reason"] for row in found] == ["COPY"] * len(copied)
    assert [row["copies.patch"] for row in found] == [train[row] for row in copied]
    assert {row["copies.patches"] for row in found} == {"patches/toy@v1"}
    slides = index_of(sampled).patches["slide_id"].to_pylist()
    assert [row["copies.slide"] for row in found] == [slides[train[row]] for row in copied]
    assert sum(row["accepted"] for row in rows[: -len(copied)]) > len(innocent) / 2
    scores = selection.scores()["copies"]
    assert max(scores[-len(copied) :]) < 0.01 < min(scores[: -len(copied)])
    measured = artifact.manifest.contents["rules"]["copies"]
    assert measured["compared"] == {"patches/toy@v1": len(train)}


def test_all_of_own_source_is_excepted_and_another_is_not(sampled):
    train, labels, pixels = patches_of(sampled, "train")
    other = [*train[1:], train[0]]  # each is a copy of itself, and says to vary its neighbour
    plant(sampled, pixels, labels, sources=train, name="own")
    plant(sampled, pixels, labels, sources=other, name="other")
    reasons = {}
    for name in ("own", "other"):
        for own_source in ("counts", "excepted"):
            rule = all_of({**COPIES, "own_source": own_source}, max_per_class=100)
            config = select_config(name=f"{name}-{own_source}", samples=f"{name}@v1", rule=rule)
            rows = Selection.open(select(config, sampled).path).rows.to_pylist()
            reasons[name, own_source] = sum(row["reason"] == "COPY" for row in rows)
            if (name, own_source) == ("own", "excepted"):
                assert all(
                    row["copies.patch"] != patch for row, patch in zip(rows, train, strict=True)
                )
    assert reasons["own", "counts"] == reasons["other", "excepted"] == len(train)
    assert reasons["own", "excepted"] < len(train) / 2


def test_shipped_config_of_all_criteria_runs_and_each_is_left_out_by_a_line(sampled):
    make_denoiser(sampled, name="seen", images_seen=1)
    path = shipped_configs() / "select" / "full.yaml"
    names = {"samples": "toy@v1", "patches": "toy@v1", "budget.count": 2, "threads": 1,
             "rule.max_per_class": 4, "rule.rules.0.extractor.classifier": "real@v1",
             "rule.rules.1.model.extractor.denoiser": "seen@v1",
             "rule.rules.1.model.extractor.autoencoder": "toy@v1"}  # fmt: skip
    for number in (2, 3, 4):
        names[f"rule.rules.{number}.extractor.denoiser"] = "seen@v1"
        names[f"rule.rules.{number}.extractor.autoencoder"] = "toy@v1"
    overrides = [f"{key}={value}" for key, value in names.items()]
    criteria = ["agreement", "confidence", "realism", "copies", "cluster_quota"]
    eligible = {}
    for number, without in enumerate(["", "copies"]):
        config = load_config(
            SelectConfig, path, [*overrides, f"name=arm-{number}", f"rule.without=[{without}]"]
        )
        artifact = select(config, sampled)
        eligible[without] = artifact.manifest.contents["eligible"]
        selection = Selection.open(artifact.path)
        assert list(selection.scores()) == criteria[:-1]
        assert all(np.isfinite(scores).all() for scores in selection.scores().values())
    assert eligible[""] <= eligible["copies"]


def test_sweep_that_draws_too_few_is_refused_before_anything_is_run():
    config = load_config(
        SweepConfig, shipped_configs() / "sweep" / "demo.yaml",
        ["steps.select.overrides.rule.oversampling=3"],
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"step 'select'.*32 samples of each class.*draw 300"):
        expand(config, {})


def test_all_of_planted_noise_is_unreal(sampled):
    _, labels, real = patches_of(sampled, "val")
    noise = np.random.default_rng(0).integers(0, 2, size=(4, 32, 32, 3)) * 255
    near = np.clip(real.astype(int) + 1, 0, 255)
    plant(sampled, [*near, *noise], [*labels, *(CLASSES * 2)])
    rule = {"type": "realism", "extractor": CLASSIFIER, "neighbours": 1}
    _, selection = chosen(sampled, all_of(rule, rank_by="realism", max_per_class=100))
    reasons = selection.rows["reason"].to_pylist()
    assert reasons == ["ACCEPTED"] * len(near) + ["UNREAL"] * 4
    scores = selection.scores()["realism"]
    assert scores[: len(near)].min() >= 1 > scores[len(near) :].max()


def test_all_of_a_variation_is_judged_by_the_fold_without_its_slide(sampled):
    index = index_of(sampled)
    train, labels, pixels = patches_of(sampled, "train")
    plant(sampled, pixels, labels, sources=train)
    rule = {"type": "confidence", "model": NETWORK, "folds": 2, "min_probability": 0.0}
    artifact, selection = chosen(sampled, all_of(rule, rank_by="confidence"))
    fold_of = dict(zip(train, selection.rows["fold.confidence"].to_pylist(), strict=True))
    slides = index.patches["slide_id"].to_pylist()
    by_slide = {}
    for patch, fold in fold_of.items():
        by_slide.setdefault(slides[patch], set()).add(fold)
    assert all(len(folds) == 1 for folds in by_slide.values())
    judged = [folds.pop() for folds in by_slide.values()]
    assert sorted(f for f in judged if f is not None) == [0, 0, 1, 1]  # the two labelled of each
    assert judged.count(None) == 2  # of no label: nothing was trained on it
    measured = artifact.manifest.contents["rules"]["confidence"]
    assert measured["temperature"] >= 1
    assert measured["held_out_images"] == 16


def test_all_of_confidence_does_not_hear_the_labels_of_the_slide_it_judges(sampled):
    """The same picture, said to vary one patch or another, is judged by different models."""
    train, labels, pixels = patches_of(sampled, "train")
    plant(sampled, [pixels[0]] * len(train), labels, sources=train)
    rule = {"type": "confidence", "model": NETWORK, "folds": 2, "min_probability": 0.0}
    _, selection = chosen(sampled, all_of(rule, rank_by="confidence"))
    rows = selection.rows.to_pylist()
    scores = {}
    for row in rows:
        scores.setdefault((row["label"], row["fold.confidence"]), set()).add(
            round(row["score.confidence"], 9)
        )
    assert all(len(found) == 1 for found in scores.values())
    for label in CLASSES:
        first, second, both = (next(iter(scores[label, fold])) for fold in (0, 1, None))
        assert first != second
        assert both == pytest.approx((first + second) / 2, abs=1e-6)


def test_all_of_linear_confidence_on_given_weights(sampled, tmp_path):
    extractor = timm_extractor(tmp_path)
    model = {"type": "linear", "extractor": extractor}
    rule = {"type": "confidence", "model": model, "min_probability": 0.5}
    quota = {"type": "cluster_quota", "extractor": extractor, "clusters": 2, "slack": 1.0}
    rules = all_of(rule, quota, rank_by="confidence", oversampling=3)
    artifact, selection = chosen(sampled, rules, name="toy")
    rows = selection.rows.to_pylist()
    for row in rows:
        assert (row["score.confidence"] < 0.5) == (row["reason"] == "UNSURE")
        assert (row["reasons"] == []) == (row["reason"] != "UNSURE")
    for label in CLASSES:
        taken = [r["group.cluster_quota"] for r in rows if r["accepted"] and r["label"] == label]
        assert all(taken.count(group) <= 2 for group in (0, 1))
    contents = artifact.manifest.contents
    assert contents["eligible"] == sum(row["reason"] != "UNSURE" for row in rows)
    assert sum(contents["eligible_by_class"].values()) == contents["eligible"]
    assert len(contents["extractors"]) == 1  # opened once, used twice
    again = chosen(sampled, rules, name="toy")[0]
    assert again.manifest.content_sha256 == artifact.manifest.content_sha256


def test_all_of_surest_share_of_each_class_passes_however_unsure(sampled, tmp_path):
    model = {"type": "linear", "extractor": timm_extractor(tmp_path)}
    rule = {"type": "confidence", "model": model, "best_share": 0.5}
    _, selection = chosen(sampled, all_of(rule, rank_by="confidence"), name="toy")
    rows = selection.rows.to_pylist()
    for label in CLASSES:
        own = [row for row in rows if row["label"] == label]
        sure = [row["score.confidence"] for row in own if row["reason"] != "UNSURE"]
        rest = [row["score.confidence"] for row in own if row["reason"] == "UNSURE"]
        assert len(sure) == math.ceil(len(own) / 2)
        assert min(sure) >= max(rest)


@pytest.mark.parametrize("by_networks", [False, True])
def test_copies_are_looked_for_in_the_training_slides_of_the_own_division(sampled, by_networks):
    stored, _, _ = patches_of(sampled, "train")
    toy = open_artifact(sampled.storage_root, Reference("patches/toy@v1"))
    divided = opened_index(toy, dev_split=DevSplit(val=0.5, group_by="slide"), seed=1)
    splits = divided.patches["split"].to_pylist()
    now = {number for number, split in enumerate(splits) if split == "train"}
    assert now != set(stored)
    address = str(toy.reference)
    seen = Seen((toy,), frozenset({address} if by_networks else ()), ())
    (source,), others = training_images(
        seen, image_px=32, divided={address: divided}, limit=None, seed=0
    )
    assert others == {}
    # what a denoiser learned from stays, however labels are dealt out later
    assert set(source.rows.tolist()) == (now | set(stored) if by_networks else now)


def test_all_of_agreement_alone_is_the_centroid_rule(sampled):
    centroid = Selection.open(select(select_config(name="paper"), sampled).path)
    _, combined = chosen(
        sampled, all_of(AGREEMENT, rank_by="agreement", max_per_class=100), name="toy"
    )
    for column in ("sample", "order", "accepted", "reason", "nearest"):
        assert combined.rows[column].to_pylist() == centroid.rows[column].to_pylist()
    np.testing.assert_allclose(combined.rows["distance"], centroid.rows["distance"], rtol=1e-6)


def test_all_of_removing_a_rule_leaves_no_fewer_eligible(sampled):
    rules = [AGREEMENT, COPIES, {"type": "realism", "extractor": CLASSIFIER, "neighbours": 1}]
    names = [rule["type"] for rule in rules]
    found = {}
    for without in [[], *([name] for name in names)]:
        rule = all_of(*rules, rank_by="realism", without=without)
        name = "-".join(["without", *without])
        artifact = select(select_config(name=name, rule=rule), sampled)
        found[tuple(without)] = artifact.manifest.contents["eligible"]
        assert set(Selection.open(artifact.path).scores()) == set(names)
    everything = found.pop(())
    assert all(everything <= eligible for eligible in found.values())


def test_all_of_a_rule_that_is_left_out_is_as_if_it_did_not_stand_there(sampled):
    quota = {"type": "cluster_quota", "extractor": CLASSIFIER, "clusters": 2, "slack": 1.0}
    rules = [AGREEMENT, quota]
    arms = {
        "absent": all_of(AGREEMENT, rank_by="agreement"),
        "left-out": all_of(*rules, rank_by="agreement", without=["cluster_quota"]),
    }
    tables = [
        Selection.open(select(select_config(name=name, rule=rule), sampled).path).rows
        for name, rule in arms.items()
    ]
    for column in tables[0].column_names:
        assert tables[0][column].to_pylist() == tables[1][column].to_pylist()


def test_all_of_source_quota_spreads_over_slides(sampled):
    train, labels, pixels = patches_of(sampled, "train")
    plant(sampled, pixels, labels, sources=train)
    quota = {"type": "source_quota", "slack": 1.0}
    _, selection = chosen(sampled, all_of(quota, max_per_class=3))
    rows = [row for row in selection.rows.to_pylist() if row["accepted"]]
    slides = [row["group.source_quota"] for row in rows]
    assert len(slides) == len(set(slides)) == 6


def test_all_of_random_control_of_equal_count(sampled):
    _, combined = chosen(
        sampled, all_of(AGREEMENT, rank_by="agreement", max_per_class=2), name="toy"
    )
    rule = {"type": "random", "match": "toy@v1"}
    control = Selection.open(select(select_config(name="control", rule=rule), sampled).path)
    assert control.counts() == combined.counts()


@pytest.mark.parametrize(
    ("rules", "changes", "message"),
    [
        ([{"type": "realism", "extractor": {"type": "random_features"}}], {}, "random weights"),
        ([AGREEMENT, AGREEMENT], {}, "stand twice"),
        ([AGREEMENT], {"rank_by": "realism"}, "rank_by 'realism'"),
        ([AGREEMENT], {"without": ["copies"]}, "without copies: no rule"),
        ([{"type": "confidence", "min_probability": 0.5,
           "model": {"type": "linear", "extractor": CLASSIFIER}}], {}, "saw the labels"),
        ([COPIES], {"held_out": {"splits": ["test"]}}, "'train' or 'val'"),
        ([COPIES], {"held_out": {"splits": ["train"]}}, "has 0 patches in split train"),
        ([{"type": "source_quota"}], {}, "no source slides"),
        ([{"type": "realism", "extractor": CLASSIFIER, "neighbours": 8}], {}, "need more than 8"),
        ([AGREEMENT], {"oversampling": 4}, "draw 16 of each class .*per_class=16.* to 3"),
    ],
)  # fmt: skip
def test_all_of_that_cannot_be_is_refused_in_one_line(sampled, rules, changes, message):
    with pytest.raises(ConfigError, match=message) as told:
        chosen(sampled, all_of(*rules, **changes), name="toy")
    assert "\n" not in str(told.value)


def test_all_of_confidence_reads_a_network_that_learned_without_labels(sampled):
    encoder = {
        "method": {
            "type": "self_supervised",
            "pretraining": {**optimization(steps=2, batch=8, lr=1.0e-3), "projection": 8},
        },
        "training": None, "name": "encoder",
    }  # fmt: skip
    classify(classify_config(**encoder), sampled)
    extractor = {"type": "classifier", "classifier": "encoder@v1"}
    model = {"type": "linear", "extractor": extractor}
    rule = {"type": "confidence", "min_probability": 0.0, "model": model}
    _, selection = chosen(sampled, all_of(rule, rank_by="confidence"), name="toy")
    assert all(0 <= row["score.confidence"] <= 1 for row in selection.rows.to_pylist())


def test_all_of_untrained_denoiser_as_extractor_is_refused(sampled):
    extractor = {"type": "denoiser", "denoiser": "toy@v1", "autoencoder": "toy@v1"}
    with pytest.raises(ConfigError, match="has seen no image"):
        chosen(sampled, all_of({"type": "agreement", "extractor": extractor}), name="toy")


def test_all_of_lineage_that_is_not_whole_is_refused(sampled):
    manifest = sampled.storage_root / "latents" / "toy" / "v1" / "manifest.json"
    manifest.unlink()
    with pytest.raises(ConfigError, match="latents/toy@v1, which is not in this root"):
        chosen(sampled, all_of(COPIES), name="toy")


def test_centroid_too_few_drawn_is_refused(sampled):
    rule = {"type": "centroid", "classifier": "real@v1", "max_per_class": 5}
    with pytest.raises(ConfigError, match="draw 15 of each class"):
        select(select_config(rule=rule), sampled)


def test_selection_written_before_opens_without_scores(sampled):
    artifact = select(select_config(), sampled)
    table = pq.read_table(io.BytesIO((artifact.path / "selection.parquet").read_bytes()))
    assert table.column_names == [
        "sample", "label", "order", "distance", "nearest", "real_similarity", "accepted", "reason",
    ]  # fmt: skip
    assert Selection.open(artifact.path).scores() == {}
    assert json.loads((artifact.path / "summary.json").read_bytes())["samples"] == 24
    assert len(SampleStore.open(open_artifact(
        sampled.storage_root, Reference("samples/toy@v1")).path)) == 24  # fmt: skip
