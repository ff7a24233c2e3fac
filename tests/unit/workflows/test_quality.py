"""Quality of samples: the block of synthesize, planted copies, and what is refused."""

import json

import numpy as np
import pytest

from histodiff.artifacts import Reference, open_artifact
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.errors import ConfigError
from histodiff.samples import SampleStore, finish_store, finished_shards, write_shard
from histodiff.samples.schema import SAMPLE_COLUMNS
from histodiff.storage import storage_path
from histodiff.workflows.quality.config import QualityConfig
from histodiff.workflows.quality.judging import Drawn
from histodiff.workflows.quality.measuring import measure_store, open_sources
from histodiff.workflows.quality.patches import patch_source
from histodiff.workflows.report import ReportConfig, report
from histodiff.workflows.report.quality import MeasureRow
from histodiff.workflows.sweep.trial_table import sample_metrics
from histodiff.workflows.synthesize import synthesize
from tests.support.labelled_chain import make_denoiser
from tests.support.labelled_configs import classify_config, synthesize_config

RANDOM = {"type": "random_features", "input_px": 32}
UNLABELLED = Drawn(image_px=32, classes=("unconditional",), labels_sha256=None)


def block(**changes):
    values = {"extractor": RANDOM, "real": "toy@v1", "replicates": 20}
    return {**values, **changes}


def unguided(**quality):
    return synthesize_config(
        name="measured", guide=None, per_class=None, guidance=None, num_samples=30,
        quality=block(**quality),
    )  # fmt: skip


def everything(**quality):
    """Real patches of all splits: 48, so that halves have 24."""
    return unguided(real_splits=["train", "val", "test"], **quality)


def patches_of(site, split):
    index = PatchIndex.open(site.storage_root / Reference("patches/toy@v1").folder)
    rows = [n for n, own in enumerate(index.patches["split"].to_pylist()) if own == split]
    return rows, PatchReader(index).read(rows).pixels


def store_of(path, pixels):
    """A store of these images, as if they had been drawn."""
    columns = {name: [""] * len(pixels) for name in SAMPLE_COLUMNS.names}
    columns |= {
        "sample": list(range(100, 100 + len(pixels))), "label": ["unconditional"] * len(pixels),
        "seed": [0] * len(pixels), "guidance_scale": [0.0] * len(pixels),
        "guide_log_prob": [0.0] * len(pixels),
    }  # fmt: skip
    write_shard(path, 0, columns=columns, pixels_NHWC=pixels)
    finish_store(
        path, finished_shards(path).values(), classes=("unconditional",), image_px=32, mpp=1.0,
        encoder_sha256="e", decoder_sha256="d",
    )  # fmt: skip
    return SampleStore.open(path)


def measured(site, path, pixels, **changes):
    config = parse_config(QualityConfig, block(**changes), source="test")
    inputs = {
        key: open_artifact(site.storage_root, address) for key, address in config.inputs().items()
    }
    sources = open_sources(config, inputs, UNLABELLED, root=site.storage_root, seed=0)
    store = store_of(path, pixels)
    found = measure_store(config, inputs, store, sources, path=path, seed=0, device="cpu")
    return found.contents, json.loads((path / "metrics.json").read_bytes())


def test_synthesize_measures_what_it_drew(sampled):
    artifact = synthesize(everything(), sampled)
    quality = artifact.manifest.contents["quality"]
    assert quality["extractor"] == "random features, seed 0"
    assert len(quality["extractor_sha256"]) == 64
    assert (quality["num_images"], quality["num_real"], quality["num_compared"]) == (30, 48, 24)
    assert quality["num_groups"] == 12  # slides
    assert any("24 images of each set" in line for line in quality["warnings"])
    distance = quality["measures"]["frechet_distance"]
    assert distance["value"] > 2 * distance["floor"]  # untrained networks draw nothing real
    assert json.loads((artifact.path / "metrics.json").read_bytes())["quality"] == quality
    assert "patches/toy@v1" in artifact.manifest.inputs


def test_synthesize_with_and_without_measures_draws_the_same(sampled):
    with_measures = SampleStore.open(synthesize(everything(), sampled).path)
    bare = everything().model_copy(update={"quality": None, "name": "bare"})
    np.testing.assert_array_equal(
        with_measures.read_pixels(range(30)),
        SampleStore.open(synthesize(bare, sampled).path).read_pixels(range(30)),
    )


def test_real_patches_as_samples_are_near_the_floor(sampled, tmp_path):
    _, pixels = patches_of(sampled, "train")
    contents, _ = measured(
        sampled, storage_path(tmp_path), pixels, real_splits=["train", "val", "test"]
    )
    measures = contents["quality"]["measures"]
    drawn = synthesize(everything(), sampled).manifest.contents["quality"]["measures"]
    assert measures["precision"]["value"] > 0.9
    assert measures["frechet_distance"]["value"] < 0.2 * drawn["frechet_distance"]["value"]


def test_guided_samples_are_measured_by_class(sampled):
    config = synthesize_config(
        name="classes", per_class=20, quality=block(real_splits=["train", "val", "test"])
    )
    quality = synthesize(config, sampled).manifest.contents["quality"]
    assert set(quality["by_class"]) == {"benign", "cancer"}
    assert quality["by_class"]["benign"]["num_real"] == 24


def test_planted_training_patches_are_all_found_however_turned(sampled, tmp_path):
    rows, training = patches_of(sampled, "train")
    _, innocent = patches_of(sampled, "test")
    planted = np.concatenate(
        [
            np.rot90(training[:3], 1, axes=(1, 2)), training[3:6],
            training[6:9, ::-1], training[9:12].transpose(0, 2, 1, 3),
        ]
    )  # fmt: skip
    pixels = np.concatenate([innocent[:8], planted])
    contents, metrics = measured(
        sampled, storage_path(tmp_path), pixels, training=["toy@v1"], real_splits=["val"]
    )
    flagged = {found["sample"]: found for found in metrics["flagged"]}
    assert set(range(108, 120)) <= set(flagged)
    assert [flagged[108 + n]["patch"] for n in range(12)] == rows[:12]
    assert contents["memorisation"]["num_training"] == 24
    assert contents["memorisation"]["num_training_left_out"] == 0
    assert contents["memorisation"]["share"] >= 12 / 20
    assert contents["memorisation"]["closer_than_any_real"] >= 12
    assert (storage_path(tmp_path) / "nearest_training.png").read_bytes()[:4] == b"\x89PNG"


def test_turned_copies_need_the_symmetries(sampled, tmp_path):
    _, training = patches_of(sampled, "train")
    planted = np.ascontiguousarray(np.rot90(training[:12], 1, axes=(1, 2)))
    shares = [
        measured(
            sampled, storage_path(tmp_path / symmetries), planted, training=["toy@v1"],
            real_splits=["val"], symmetries=symmetries,
        )[0]["memorisation"]["share"]
        for symmetries in ("none", "flips_and_turns")
    ]  # fmt: skip
    assert shares[0] < shares[1] == 1


def test_training_patches_that_were_left_out_are_counted(sampled, tmp_path):
    _, pixels = patches_of(sampled, "test")
    config = parse_config(QualityConfig, block(training=["toy@v1"]), source="test")
    assert config.training_images is None
    few = config.model_copy(update={"training_images": 10})
    inputs = {
        key: open_artifact(sampled.storage_root, address) for key, address in few.inputs().items()
    }
    sources = open_sources(few, inputs, UNLABELLED, root=sampled.storage_root, seed=0)
    path = storage_path(tmp_path)
    store = store_of(path, pixels)
    found = measure_store(few, inputs, store, sources, path=path, seed=0, device="cpu")
    assert found.contents["memorisation"]["num_training"] == 10
    assert found.contents["memorisation"]["num_training_left_out"] == 14


@pytest.mark.parametrize(
    "extractor",
    [
        {"type": "classifier", "classifier": "real@v1"},
        {"type": "denoiser", "denoiser": "toy@v1", "autoencoder": "toy@v1"},
    ],
    ids=["classifier", "denoiser"],
)
def test_networks_trained_here_are_extractors_and_named(sampled, extractor):
    artifact = synthesize(everything(extractor=extractor), sampled)
    quality = artifact.manifest.contents["quality"]
    assert Reference(next(iter(v for k, v in extractor.items() if k != "type"))) in (
        quality["extractor"].replace("denoisers/", "").replace("classifiers/", "")
    )
    assert quality["measures"]


def test_split_without_patches_is_refused(sampled):
    artifact = open_artifact(sampled.storage_root, Reference("patches/toy@v1"))
    with pytest.raises(ConfigError, match="no patches in split pool"):
        patch_source(artifact, splits=("pool",), limit=None, seed=0, owner="quality.real")


def test_real_patches_that_were_trained_on_are_refused():
    with pytest.raises(ConfigError, match="real_splits has `train`"):
        unguided(real_splits=["train"], training=["toy@v1"])


def test_patches_of_another_size_are_refused(sampled):
    make_denoiser(sampled, name="large", patch_px=64)
    config = unguided().model_copy(update={"denoiser": Reference("large@v1")})
    with pytest.raises(ConfigError, match="patches of 32 px, samples have 64 px"):
        synthesize(config, sampled)


def test_classifier_that_knows_samples_is_refused(sampled):
    artifact = open_artifact(sampled.storage_root, classify_config().output)
    path = artifact.path / "manifest.json"
    record = json.loads(path.read_bytes())
    record["contents"]["synthetic"] = 4
    path.write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="trained on synthetic images"):
        synthesize(unguided(extractor={"type": "classifier", "classifier": "real@v1"}), sampled)


def test_report_shows_measures_beside_the_floor_and_the_suspects(sampled):
    synthesize(everything(training=[]), sampled)
    searched = unguided(training=["toy@v1"]).model_copy(update={"name": "searched"})
    synthesize(searched, sampled)
    values = {
        "name": "r", "version": "v1", "title": "t", "samples": ["measured@v1", "searched@v1"],
    }  # fmt: skip
    artifact = report(parse_config(ReportConfig, values, source="test"), sampled)
    page = (artifact.path / "report.html").read_text()
    first, second = json.loads((artifact.path / "report.json").read_text())["quality"]
    recorded = json.loads((sampled.storage_root / "samples/measured/v1/metrics.json").read_bytes())[
        "quality"
    ]["measures"]
    for key in ("value", "low", "floor", "floor_high"):
        assert [row[key] for row in first["rows"]] == [one[key] for one in recorded.values()]
    assert "random features, seed 0" in first["sentence"]
    assert "Quality of samples" in page
    assert "short of the floor" in page
    assert first["copies"] is None
    assert "flipped and turned too" in second["copies"]
    assert second["picture"]["alt"] == "Samples above the training patches nearest to them."
    assert any("nothing is measured of fewer" in line for line in second["warnings"])


def test_row_that_overlaps_the_floor_is_within_reach():
    def row(better, low, high, floor_low, floor_high):
        return MeasureRow("all", "m", better, low, low, high, floor_low, floor_low, floor_high)

    assert row("lower", 1.0, 2.0, 0.5, 1.1).reaches_the_floor
    assert not row("lower", 1.2, 2.0, 0.5, 1.1).reaches_the_floor
    assert row("higher", 0.5, 0.8, 0.7, 0.9).reaches_the_floor
    assert not row("higher", 0.5, 0.6, 0.7, 0.9).reaches_the_floor


def test_trial_of_measured_samples_has_their_quality_as_columns(sampled):
    artifact = synthesize(everything(), sampled)
    found = sample_metrics(sampled.storage_root, artifact.reference)
    measures = artifact.manifest.contents["quality"]["measures"]
    assert found == {f"samples.{name}": one["value"] for name, one in measures.items()}
    assert sample_metrics(sampled.storage_root, Reference("samples/toy@v1")) == {}
