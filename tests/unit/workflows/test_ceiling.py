"""``ceiling``: its arms are those of ``classify``, its line says what they show, it resumes."""

import io
import json
import shutil
from typing import Annotated, ClassVar

import numpy as np
import pytest
from PIL import Image

from histodiff.artifacts import Kind, Reference, begin
from histodiff.artifacts.artifact import MANIFEST
from histodiff.classification.stand_ins import stand_ins
from histodiff.cli.results import print_artifact
from histodiff.cluster.site import NoRay, Site
from histodiff.config import Location, parse_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.errors import ArtifactNotFound, ConfigError
from histodiff.evaluation.statistics import SCORE, paired_difference
from histodiff.samples import Decision, finish_store, write_selection, write_shard
from histodiff.workflows.ceiling import ceiling, estimate
from histodiff.workflows.ceiling.outcome import conclusion
from histodiff.workflows.classify import classify
from histodiff.workflows.labels import labelled_rows
from histodiff.workflows.report import ReportConfig, report
from tests.support.labelled_chain import (
    CLASSES,
    PATCH_PX,
    MadeConfig,
    make_autoencoder,
    make_patches,
)
from tests.support.labelled_configs import ceiling_config, classify_config

SHORT = ceiling_config().training.model_dump(mode="json")
ONE_SLIDE = {"type": "slides_per_class", "count": 1}


@pytest.fixture
def made(site, tmp_path):
    make_patches(site, tmp_path / "images")
    make_autoencoder(site, seed=0, name="toy")
    return site


@pytest.fixture(scope="module")
def _finished_root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ceiling")
    site = Site(root=str(folder / "runs"), ray=NoRay(type="none"), device="cpu")
    make_patches(site, folder / "images")
    make_autoencoder(site, seed=0, name="toy")
    ceiling(ceiling_config(), site)
    return folder / "runs"


@pytest.fixture
def done(site, _finished_root):
    """A site with a finished ceiling ``toy@v1``, made once: opened by the same command again."""
    shutil.copytree(_finished_root, site.root)
    return site


@pytest.fixture
def noise(made, tmp_path):
    """As ``made``, with noise for patches: scores that no two classifiers share."""
    rng = np.random.default_rng(0)
    for path in sorted((tmp_path / "images").iterdir()):
        pixels = rng.integers(0, 256, (PATCH_PX, PATCH_PX, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return made


def results_of(artifact):
    return json.loads((artifact.path / "ceiling.json").read_bytes())


def index_of(site):
    return PatchIndex.open(site.storage_root / "patches" / "toy" / "v1")


def test_ceiling_real_arm_is_the_control_of_classify(noise):
    found = results_of(ceiling(ceiling_config(split="test", seeds=[0, 4], autoencoders=[]), noise))
    for seed in (0, 4):
        control = classify(
            classify_config(name=f"s{seed}", budget=ONE_SLIDE, seed=seed, training=SHORT), noise
        )
        expected = json.loads((control.path / "metrics.json").read_bytes())["patch"]
        assert found["trials"][f"seed-{seed}-fold-0-real"] == expected


class MadeSamples(MadeConfig):
    artifact_kind: ClassVar[Kind] = Kind.SAMPLES


class MadeSelection(MadeConfig):
    artifact_kind: ClassVar[Kind] = Kind.SELECTIONS
    samples: Annotated[Reference, Location()]


def make_perfect_samples(site, seed):
    """The patches that stand for samples, as a SampleStore and a Selection, ``perfect@v1``."""
    index = index_of(site)
    labels = labelled_rows(
        index.patches, budget=classify_config(budget=ONE_SLIDE).budget, seed=seed
    )
    plan = stand_ins(index.patches, labels.rows, kind=None, ratio=1.0, num_folds=2, seed=seed)
    patches = [int(patch) for patch in plan.folds[0].added_M]
    named = index.patches["label"].take(patches).to_pylist()
    draft = begin(site.storage_root, MadeSamples(name="perfect", version="v1"))
    count = len(patches)
    columns = {
        "sample": list(range(count)), "label": named, "seed": [0] * count, "guide": ["g"] * count,
        "guidance_scale": [1.0] * count, "sampler": ["{}"] * count, "denoiser": ["d"] * count,
        "decoder_sha256": ["x"] * count, "guide_log_prob": [0.0] * count,
    }  # fmt: skip
    pixels = PatchReader(index).read(patches).pixels
    record = write_shard(draft.path, 0, columns=columns, pixels_NHWC=pixels)
    finish_store(
        draft.path, [record], classes=CLASSES, image_px=PATCH_PX, mpp=1.0, encoder_sha256="e",
        decoder_sha256="x",
    )  # fmt: skip
    samples = draft.finish({"image_px": PATCH_PX})
    selection = begin(
        site.storage_root, MadeSelection(name="perfect", version="v1", samples="perfect@v1"),
        inputs={"samples": samples},
    )  # fmt: skip
    write_selection(
        selection.path,
        [Decision(n, label, n // len(CLASSES), "ACCEPTED") for n, label in enumerate(named)],
    )
    selection.finish({"labels_sha256": labels.sha256})


def test_ceiling_untouched_patches_join_exactly_as_perfect_samples_would(noise):
    found = results_of(ceiling(ceiling_config(split="test", seeds=[2], autoencoders=[]), noise))
    make_perfect_samples(noise, seed=2)
    config = classify_config(
        budget=ONE_SLIDE,
        seed=2,
        samples="perfect@v1",
        selection="perfect@v1",
        synthetic_ratio=1.0,
        training=SHORT,
    )
    expected = json.loads((classify(config, noise).path / "metrics.json").read_bytes())["patch"]
    assert found["trials"]["seed-2-fold-0-untouched"] == expected
    assert found["trials"]["seed-2-fold-0-real"] != expected


def test_ceiling_of_several_autoencoders_has_an_arm_for_each(made):
    make_autoencoder(made, seed=5, name="other")
    artifact = ceiling(ceiling_config(autoencoders=["toy@v1", "other@v1"], seeds=[0, 1]), made)
    found = results_of(artifact)
    names = ["real", "untouched", "reconstructed (autoencoders/toy@v1)",
             "reconstructed (autoencoders/other@v1)"]  # fmt: skip
    assert [arm["arm"] for arm in found["arms"]] == names
    assert [arm["added"] for arm in found["arms"]] == [0, 8, 8, 8]
    assert len(found["lines"]) == 2
    pairs = {(item["arm"], item["versus"]) for item in found["differences"]}
    assert pairs == {(names[1], names[0])} | {(n, v) for n in names[2:] for v in names[:2]}
    assert found["setting"]["split"] == "val"
    assert (found["setting"]["scored_patches"], found["setting"]["scored_slides"]) == (8, 2)
    assert artifact.manifest.contents["classifiers"] == 8


def test_ceiling_differences_are_paired_by_seed_and_in_their_bounds(done):
    found = results_of(ceiling(ceiling_config(), done))
    arms = {arm["arm"]: arm["values"]["auc"] for arm in found["arms"]}
    by_hand = paired_difference(arms["untouched"], arms["real"], bounds=SCORE)
    (stored,) = (
        item for item in found["differences"]
        if (item["arm"], item["metric"]) == ("untouched", "auc")
    )  # fmt: skip
    assert stored["difference"] == {
        "mean": by_hand.mean, "low": by_hand.low, "high": by_hand.high, "num": 3,
    }  # fmt: skip


def test_ceiling_without_autoencoder_measures_the_headroom(made):
    found = results_of(ceiling(ceiling_config(autoencoders=[], seeds=[0]), made))
    assert found["lines"][0].startswith("Headroom: patches that stand for perfect samples add")
    assert [arm["arm"] for arm in found["arms"]] == ["real", "untouched"]


def test_ceiling_of_all_labels_is_cross_fitted_and_says_so(made):
    config = ceiling_config(budget={"type": "all"}, folds=3, seeds=[0], autoencoders=[])
    found = results_of(ceiling(config, made))
    assert found["setting"]["stand_in"] == "cross_fitted"
    assert len(found["trials"]) == 3 * 2
    assert any("cross-fitted in 3 parts" in line for line in found["limits"])
    arms = {arm["arm"]: arm for arm in found["arms"]}
    assert arms["real"]["real"] == 16  # of 24 labels
    folds = [found["trials"][f"seed-0-fold-{k}-real"]["accuracy"] for k in range(3)]
    assert arms["real"]["values"]["accuracy"][0] == pytest.approx(np.mean(folds))


def test_ceiling_that_was_killed_goes_on_with_the_next_classifier(done):
    first = ceiling(ceiling_config(), done)
    whole = results_of(first)
    first.path.joinpath(MANIFEST).unlink()
    ledger = first.path / "ledger"
    (ledger / "seed-2-fold-0-untouched.json").unlink()
    kept = json.loads((ledger / "seed-1-fold-0-real.json").read_text())
    kept["metrics"]["balanced_accuracy"] = 0.123
    (ledger / "seed-1-fold-0-real.json").write_text(json.dumps(kept))
    again = results_of(ceiling(ceiling_config(), done))
    assert again["trials"]["seed-1-fold-0-real"]["balanced_accuracy"] == 0.123  # not trained anew
    again["trials"]["seed-1-fold-0-real"] = whole["trials"]["seed-1-fold-0-real"]
    assert again["trials"] == whole["trials"]


def test_ceiling_that_is_finished_is_returned(done):
    before = (done.storage_root / "ceilings" / "toy" / "v1" / MANIFEST).read_bytes()
    again = ceiling(ceiling_config(), done)
    assert (again.path / MANIFEST).read_bytes() == before


def test_ceiling_unreadable_patch_is_named_and_left_out_of_every_arm(made, tmp_path):
    index = index_of(made)
    val = next(row["path"] for row in index.patches.to_pylist() if row["split"] == "val")
    (tmp_path / "images" / val).write_bytes(b"no image")
    artifact = ceiling(ceiling_config(seeds=[0]), made)
    assert [issue.unit.rpartition("/")[2] for issue in artifact.manifest.failed] == [val]


def test_ceiling_estimate_counts_classifiers_patches_and_slides(done):
    assert estimate(ceiling_config(), done) == {
        "units": 9, "classifiers": 9, "steps_each": 4, "stand_in": "other_slides",
        "labelled_patches": 8, "labelled_slides": 2, "added_patches": 8, "added_slides": 4,
        "reconstructed_patches": 24, "scored_patches": 8, "scored_slides": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, 0]}, "name each once"),
        ({"autoencoders": ["a@v1", "a@v1"]}, "name each once"),
        ({"seeds": []}, "seeds"),
        ({"synthetic_ratio": 0.0}, "synthetic_ratio"),
    ],
)
def test_ceiling_config_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        ceiling_config(**changes)


def test_ceiling_of_a_missing_autoencoder_is_an_error(done):
    with pytest.raises(ArtifactNotFound, match="autoencoders/none@v1"):
        ceiling(ceiling_config(autoencoders=["none@v1"]), done)


def test_ceiling_prints_table_conclusion_and_place(done):
    artifact = ceiling(ceiling_config(), done)
    out = io.StringIO()
    print_artifact(artifact, as_json=False, out=out)
    lines = out.getvalue().splitlines()
    assert lines[0] == (
        "patches/toy@v1, split val, 3 seeds, 95% intervals;"
        " differences in points of balanced accuracy"
    )
    assert lines[1].split()[:3] == ["arm", "added", "balanced"]
    assert {line.split()[0] for line in lines[2:5]} == {"real", "untouched", "reconstructed"}
    assert results_of(artifact)["lines"][0] in lines
    assert lines[-1] == str(artifact.path)


def test_report_shows_the_ceiling(done):
    found = results_of(ceiling(ceiling_config(), done))
    values = {"name": "r", "version": "v1", "title": "t", "ceilings": ["toy@v1"]}
    artifact = report(parse_config(ReportConfig, values, source="r.yaml"), done)
    page = (artifact.path / "report.html").read_text()
    assert 'href="#ceiling"' in page
    assert "reconstructed (autoencoders/toy@v1)" in page
    assert found["lines"][0] in page
    (shown,) = json.loads((artifact.path / "report.json").read_text())["ceilings"]
    assert shown["lines"] == found["lines"]
    assert shown["arms"][0]["balanced_accuracy"] == found["arms"][0]["metrics"]["balanced_accuracy"]


def line(real, untouched, through):
    arms = [[0.01 * value for value in arm] for arm in (real, untouched, through)]
    return conclusion(
        "autoencoders/x@v1",
        headroom=paired_difference(arms[1], arms[0], bounds=SCORE),
        gain=paired_difference(arms[2], arms[0], bounds=SCORE),
        loss=paired_difference(arms[2], arms[1], bounds=SCORE),
        metric="balanced_accuracy",
        level=0.95,
    )


REAL, BETTER, SAME = [79, 80, 81], [85, 86.5, 86.6], [80, 79.5, 81.2]


def test_conclusion_where_reconstructed_help_says_so():
    text = line(REAL, BETTER, [84, 85.1, 86.2])
    assert text.startswith("Samples behind autoencoders/x@v1 can help: perfect samples through it")
    assert "add +5.1 points of balanced accuracy (95% interval" in text


def test_conclusion_where_they_do_not_help_says_no_generator_can_and_the_headroom():
    text = line(REAL, BETTER, SAME)
    assert text.startswith(
        "No generator behind autoencoders/x@v1 can help, as far as 3 seeds show: perfect samples"
    )
    assert "add +0.2 points of balanced accuracy (95% interval" in text
    assert "Headroom, untouched against none: +6.0 (" in text


def test_conclusion_without_headroom_blames_no_autoencoder():
    assert line(REAL, SAME, SAME).startswith("No headroom was shown in 3 seeds")


@pytest.mark.parametrize(
    ("arms", "reason"),
    [
        ([arm[:2] for arm in (REAL, BETTER, SAME)], "2 seeds are fewer than 3"),
        ([arm[:1] for arm in (REAL, BETTER, SAME)], "One seed has no interval"),
        ([REAL, BETTER, REAL], "All 3 paired differences are equal"),
    ],
)
def test_conclusion_without_enough_to_go_by_says_why(arms, reason):
    text = line(*arms)
    assert text.startswith("Whether samples behind autoencoders/x@v1 can help is not testable")
    assert reason in text
