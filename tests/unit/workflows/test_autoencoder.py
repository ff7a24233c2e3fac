import json
import os
import signal
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from histodiff.artifacts import Reference, open_artifact
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ArtifactDrift, ConfigError, Preempted, TrainingDiverged
from histodiff.models.autoencoder import (
    KlArchitecture,
    create_network,
    import_autoencoder,
    load_autoencoder,
)
from histodiff.models.perceptual import RandomFeatures
from histodiff.pretraining.autoencoder.patches import load_patches
from histodiff.workflows.autoencoder import AutoencoderConfig, autoencoder, estimate
from histodiff.workflows.autoencoder import ranks as workflow
from histodiff.workflows.autoencoder.reconstructions import measured
from histodiff.workflows.synthesize import synthesize
from tests.support.autoencoder_training import (
    ARCHITECTURE,
    BATCH,
    decoder_config,
    gang_with,
    train_config,
)
from tests.support.labelled_chain import make_patches
from tests.support.labelled_configs import BUDGET, synthesize_config

SHORT = {"checkpoint_images": 5 * BATCH}
"""For runs of 15 steps."""
WHOLE_BATCH = {"micro_batch": BATCH}


def import_config(source, **changes):
    values = {
        "name": "taken", "version": "v1", "mode": {"type": "import", "source": str(source)},
        "threads": 1, "seed": 0,
    }  # fmt: skip
    return parse_config(AutoencoderConfig, {**values, **changes}, source="test")


@pytest.fixture
def patches(site, tmp_path):
    make_patches(site, tmp_path / "images")
    return site


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    network = create_network(KlArchitecture(**ARCHITECTURE))
    network.save_pretrained(tmp_path / "network")
    return tmp_path / "network"


def test_training_learns_and_reports(patches):
    artifact = autoencoder(train_config(steps=60, train=WHOLE_BATCH), patches)
    network = load_autoencoder(artifact.path, device="cpu")
    contents = artifact.manifest.contents
    assert contents["encoder_sha256"] == network.encoder_sha256
    assert (contents["downsampling"], contents["latent_channels"]) == (4, 3)
    metrics = json.loads((artifact.path / "metrics.json").read_bytes())
    assert metrics["num_patches"] == 8
    assert metrics["psnr_db"] == contents["psnr_db"] > 10
    turned = contents["equivariance"]
    assert turned["psnr_db"] == pytest.approx(contents["psnr_db"])  # of the same 8 patches
    assert len(turned["symmetries"]) == 7
    assert all(row["latent_error"] > 0 for row in turned["symmetries"])
    assert all(0 < value < 10 for value in metrics["latent_std"])
    losses = pq.read_table(str(artifact.path / "losses.parquet"))["loss"].to_pylist()
    assert losses[-1] < 0.7 * losses[0]
    with Image.open(str(artifact.path / "reconstructions.png")) as picture:
        assert np.asarray(picture).std() > 0
    assert not [name for name in artifact.manifest.files if name.startswith("checkpoints/")]


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_interrupted_training_ends_with_the_same_bytes(patches, monkeypatch, stage):
    config = partial(train_config, steps=15, train={"zero_stage": stage, **SHORT})
    undisturbed = autoencoder(config("whole"), patches)

    def interrupt(news):
        if news.images_seen == 8 * BATCH:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(workflow, "run_gang", gang_with(interrupt))
        with pytest.raises(KeyboardInterrupt):
            autoencoder(config("broken"), patches)
    resumed = autoencoder(config("broken"), patches)
    assert resumed.manifest.content_sha256 == undisturbed.manifest.content_sha256


def test_sigterm_saves_first_and_the_command_resumes(patches, monkeypatch):
    config = partial(train_config, steps=15, train=SHORT)
    undisturbed = autoencoder(config("whole"), patches)

    def terminate(news):
        if news.images_seen == 7 * BATCH:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(workflow, "run_gang", gang_with(terminate))
        with pytest.raises(Preempted, match=r"after 64 images.*same command again"):
            autoencoder(config("told"), patches)
    saved = patches.storage_root / "autoencoders/told/v1/checkpoints/step-00000008/complete.json"
    assert saved.exists()
    resumed = autoencoder(config("told"), patches)
    assert resumed.manifest.content_sha256 == undisturbed.manifest.content_sha256


def test_training_that_diverges_names_the_last_checkpoint(patches):
    wild = {"optimizer": {"type": "adamw", "lr": 1e20, "clip": None}, "checkpoint_images": BATCH}
    with pytest.raises(TrainingDiverged) as caught:
        autoencoder(train_config(train=wild), patches)
    assert caught.value.step > 0
    assert caught.value.checkpoint is not None


def test_decoder_training_leaves_the_encoder_and_what_was_encoded_valid(sampled):
    before = load_autoencoder(sampled.storage_root / "autoencoders/toy/v1", device="cpu")
    tuned = autoencoder(decoder_config(), sampled)
    network = load_autoencoder(tuned.path, device="cpu")
    contents = tuned.manifest.contents
    assert contents["encoder_sha256"] == network.encoder_sha256 == before.encoder_sha256
    assert contents["decoder_sha256"] == network.decoder_sha256 != before.decoder_sha256
    samples = synthesize(synthesize_config(autoencoder="tuned@v1", name="by-tuned"), sampled)
    assert "autoencoders/tuned@v1" in samples.manifest.inputs


def test_decoder_training_makes_reconstructions_better_and_resumes(encoded, monkeypatch):
    source = "autoencoders/toy/v1"
    before = load_autoencoder(encoded.storage_root / source, device="cpu")
    undisturbed = autoencoder(decoder_config("whole", steps=40), encoded)

    def interrupt(news):
        if news.images_seen == 25 * BATCH:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(workflow, "run_gang", gang_with(interrupt))
        with pytest.raises(KeyboardInterrupt):
            autoencoder(decoder_config("broken", steps=40), encoded)
    resumed = autoencoder(decoder_config("broken", steps=40), encoded)
    assert resumed.manifest.content_sha256 == undisturbed.manifest.content_sha256
    pixels = load_patches(
        [PatchIndex.open(encoded.storage_root / "patches/toy/v1")], split="val", count=8, seed=0
    ).pixels_NHWC
    scratch = encoded.storage_root / "scratch"
    untrained = measured(before, pixels, scratch, perceptual=RandomFeatures()).quality
    trained = undisturbed.manifest.contents
    assert trained["psnr_db"] > untrained["psnr_db"] + 3
    assert trained["perceptual_distance"] < untrained["perceptual_distance"]


@pytest.mark.parametrize("stage", [0, 1])
def test_training_against_a_discriminator_resumes_before_and_after_its_start(
    patches, monkeypatch, stage
):
    small = {"width": 8, "layers": 2}
    options = {
        "loss": {
            "perceptual": {"weight": 0.5},
            "adversarial": {"weight": 0.5, "start_images": 9 * BATCH, **small},
        },
        "train": {
            "zero_stage": stage, "log_images": 3 * BATCH, "checkpoint_images": 6 * BATCH,
        },
        "steps": 18,
    }  # fmt: skip
    undisturbed = autoencoder(train_config("whole", **options), patches)
    stops = [7 * BATCH, 15 * BATCH]

    def interrupt(news):
        if news.images_seen == stops[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(workflow, "run_gang", gang_with(interrupt))
        while stops:
            with pytest.raises(KeyboardInterrupt):
                autoencoder(train_config("broken", **options), patches)
            stops.pop(0)
    resumed = autoencoder(train_config("broken", **options), patches)
    assert resumed.manifest.content_sha256 == undisturbed.manifest.content_sha256
    losses = pq.read_table(str(resumed.path / "losses.parquet"))
    assert losses["step"].to_pylist() == [3, 6, 9, 12, 15, 18]
    judged = [value is not None for value in losses["discriminator"].to_pylist()]
    assert judged == [False, False, False, True, True, True]


def test_training_of_an_autoencoder_stops_when_its_loss_leaps(patches):
    leap = {"action": "stop", "spike_factor": 1.01, "median_images": BATCH}
    train = {"on_divergence": leap, "optimizer": {"type": "adamw", "lr": 0.5, "clip": None}}
    with pytest.raises(TrainingDiverged):
        autoencoder(train_config("leaps", train=train), patches)


CLASSIFIER = {"weight": 0.1, "budget": BUDGET, "width": 8, "layers": 2}


def test_decoder_training_with_a_classifier_sees_the_labels_that_a_guide_sees(sampled):
    term = {"classification": CLASSIFIER}
    tuned = autoencoder(decoder_config(loss=term, steps=10), sampled)
    found = pq.read_table(str(tuned.path / "losses.parquet"))["classification"].to_pylist()
    assert all(value > 0 for value in found)
    guide = open_artifact(sampled.storage_root, Reference("guides/toy@v1")).manifest
    assert tuned.manifest.contents["labels_sha256"] == guide.contents["labels_sha256"]
    assert tuned.manifest.contents["encoder_sha256"] == guide.contents["encoder_sha256"]


def test_samples_of_a_decoder_that_saw_other_labels_than_the_guide_are_refused(sampled):
    budget = {"type": "slides_per_class", "count": 1}
    other = autoencoder(
        decoder_config("other", loss={"classification": {**CLASSIFIER, "budget": budget}}, steps=4),
        sampled,
    )
    plain = autoencoder(decoder_config("further", source="other@v1", steps=4), sampled)
    assert plain.manifest.contents["labels_sha256"] == other.manifest.contents["labels_sha256"]
    for decoder in ("other@v1", "further@v1"):
        with pytest.raises(ConfigError, match=r"guide .* and autoencoder .* saw different labels"):
            synthesize(synthesize_config(name="mixed", autoencoder=decoder), sampled)
    unguided = {"guide": None, "guidance": None, "per_class": None, "num_samples": 2}
    free = synthesize(synthesize_config(name="free", autoencoder="other@v1", **unguided), sampled)
    assert free.manifest.contents["labels_sha256"] == other.manifest.contents["labels_sha256"]


def test_decoder_trained_further_with_other_labels_is_refused(sampled):
    autoencoder(decoder_config("first", loss={"classification": CLASSIFIER}, steps=4), sampled)
    budget = {"type": "slides_per_class", "count": 1}
    second = decoder_config(
        "second", source="first@v1", loss={"classification": {**CLASSIFIER, "budget": budget}}
    )
    with pytest.raises(ConfigError, match=r"autoencoders/first@v1 saw different labels"):
        autoencoder(second, sampled)


def test_auxiliary_classifier_learns_the_classes_from_a_trained_autoencoder(patches):
    autoencoder(train_config("base", steps=200, train=WHOLE_BATCH), patches)
    term = {"classification": CLASSIFIER}
    tuned = autoencoder(decoder_config(source="base@v1", loss=term, steps=30), patches)
    found = pq.read_table(str(tuned.path / "losses.parquet"))["classification"].to_pylist()
    assert found[-1] < 0.2 * found[0]


def test_decoder_training_with_a_classifier_needs_one_index_with_labels(encoded):
    term = {"classification": CLASSIFIER}
    with pytest.raises(ConfigError, match="needs one PatchIndex, not 2"):
        autoencoder(decoder_config(loss=term, patches=["toy@v1", "toy@v1"]), encoded)


def test_training_with_nothing_to_measure_on_fails_before_it_starts(patches, tmp_path):
    for number in (3, 9):  # the validation slides
        for image in (tmp_path / "images").glob(f"slide-{number:02d}-*.png"):
            image.unlink()
    with pytest.raises(ConfigError, match="split 'val' has no readable patch"):
        autoencoder(train_config(), patches)
    assert not list((tmp_path / "runs/autoencoders").rglob("checkpoints"))


def test_same_command_again_returns_what_is_there_and_other_settings_are_drift(patches):
    first = autoencoder(train_config(), patches)
    assert autoencoder(train_config(), patches).manifest == first.manifest
    with pytest.raises(ArtifactDrift, match="seed"):
        autoencoder(train_config(seed=1), patches)


def test_import_keeps_the_weights_and_measures_them_on_patches(patches, saved):
    artifact = autoencoder(import_config(saved, patches=["toy@v1"]), patches)
    original = import_autoencoder(str(saved))
    assert artifact.manifest.contents["encoder_sha256"] == original.encoder_sha256
    assert "psnr_db" in artifact.manifest.contents
    assert (artifact.path / "reconstructions.png").is_file()


def test_import_without_patches_measures_nothing(site, saved):
    artifact = autoencoder(import_config(saved), site)
    assert "psnr_db" not in artifact.manifest.contents
    assert load_autoencoder(artifact.path, device="cpu").latent_channels == 3


def test_import_of_other_weights_under_the_same_name_is_drift(site, saved):
    autoencoder(import_config(saved), site)
    torch.manual_seed(1)
    create_network(KlArchitecture(**ARCHITECTURE)).save_pretrained(saved)
    with pytest.raises(ArtifactDrift):
        autoencoder(import_config(saved), site)


def test_import_from_nowhere_is_one_clear_error(site, tmp_path):
    with pytest.raises(ConfigError, match="revision"):
        autoencoder(import_config(tmp_path / "nothing"), site)


def test_missing_weights_of_lpips_show_before_anything_is_begun(patches, tmp_path):
    gone = {"type": "lpips", "files": [{"path": str(tmp_path / "gone.pth"), "sha256": "0" * 64}]}
    for changes in ({"perceptual": gone}, {"loss": {"perceptual": {"weight": 1, "network": gone}}}):
        with pytest.raises(ConfigError, match=r"gone\.pth"):
            autoencoder(train_config(**changes), patches)
    assert not (patches.storage_root / "autoencoders").exists()


def test_training_without_patches_is_refused():
    with pytest.raises(ConfigError, match="patches"):
        train_config(patches=[])


def test_estimate_counts_without_doing(patches, saved):
    planned = estimate(train_config(), patches)
    assert (planned["steps"], planned["crops"], planned["patches"]) == (30, 240, 48)
    assert planned["bytes"] > 10_000
    assert estimate(import_config(saved), patches)["source"] == str(saved)
