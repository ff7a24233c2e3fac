import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from histodiff.config import parse_config
from histodiff.errors import ArtifactDrift, ConfigError
from histodiff.models.autoencoder import (
    AutoencoderArchitecture,
    create_network,
    import_autoencoder,
    load_autoencoder,
)
from histodiff.pretraining import autoencoder as training
from histodiff.workflows.autoencoder import AutoencoderConfig, autoencoder, estimate
from tests.support.labelled_chain import make_patches

ARCHITECTURE = {
    "channels": [8, 16, 16], "latent_channels": 3, "blocks_per_level": 1, "norm_groups": 4,
    "mid_attention": False,
}  # fmt: skip


def train_config(*, steps=30, **changes):
    fit = {"steps": steps, "lr": 5.0e-3, "checkpoint_steps": 10, "warmup_steps": 3}
    mode = {
        "type": "train", "architecture": ARCHITECTURE, "loss": {"kl": 1.0e-3}, "crop_px": 16,
        "batch": 8, "max_patches": 100, "fit": fit,
    }  # fmt: skip
    values = {
        "name": "made", "version": "v1", "patches": ["toy@v1"], "mode": mode, "threads": 1,
        "seed": 0,
    }  # fmt: skip
    return parse_config(AutoencoderConfig, {**values, **changes}, source="test")


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
    network = create_network(AutoencoderArchitecture(**ARCHITECTURE))
    network.save_pretrained(tmp_path / "network")
    return tmp_path / "network"


def test_training_learns_and_reports(patches):
    artifact = autoencoder(train_config(steps=60), patches)
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


def test_interrupted_training_ends_with_the_same_bytes(patches, monkeypatch):
    undisturbed = autoencoder(train_config(name="whole"), patches)
    reads = iter(range(17))

    def interrupted(*arguments, **options):
        if next(reads, None) is None:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    real = training.crops_at
    monkeypatch.setattr(training, "crops_at", interrupted)
    with pytest.raises(KeyboardInterrupt):
        autoencoder(train_config(name="broken"), patches)
    monkeypatch.setattr(training, "crops_at", real)
    resumed = autoencoder(train_config(name="broken"), patches)
    assert resumed.manifest.content_sha256 == undisturbed.manifest.content_sha256


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
    create_network(AutoencoderArchitecture(**ARCHITECTURE)).save_pretrained(saved)
    with pytest.raises(ArtifactDrift):
        autoencoder(import_config(saved), site)


def test_import_from_nowhere_is_one_clear_error(site, tmp_path):
    with pytest.raises(ConfigError, match="revision"):
        autoencoder(import_config(tmp_path / "nothing"), site)


def test_training_without_patches_is_refused():
    with pytest.raises(ConfigError, match="patches"):
        train_config(patches=[])


def test_estimate_counts_without_doing(patches, saved):
    planned = estimate(train_config(), patches)
    assert (planned["steps"], planned["crops"], planned["patches"]) == (30, 240, 48)
    assert planned["bytes"] > 10_000
    assert estimate(import_config(saved), patches)["source"] == str(saved)
