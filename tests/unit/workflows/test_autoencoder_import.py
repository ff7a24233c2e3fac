"""The command on every class that can be imported, and what follows on latents without noise."""

import json

import numpy as np
import pytest
import torch

from histodiff.artifacts import Reference, open_artifact
from histodiff.config import parse_config
from histodiff.errors import ArtifactDrift, ConfigError
from histodiff.latents import LatentStore, mixture_whitening
from histodiff.models.autoencoder import load_autoencoder
from histodiff.pretraining.posterior import posterior_draws
from histodiff.workflows.autoencoder import AutoencoderConfig, autoencoder
from histodiff.workflows.encode.reencode import reencoding_problems
from tests.support.autoencoder_training import decoder_config
from tests.support.labelled_chain import make_denoiser, make_latents, make_patches
from tests.support.published_autoencoders import dc, kl_of_16, save_pth, taesd, tiny


def import_config(source, name="taken", **mode):
    values = {
        "name": name, "version": "v1", "patches": ["toy@v1"], "num_held_out": 8,
        "mode": {"type": "import", "source": str(source), **mode}, "threads": 1, "seed": 0,
    }  # fmt: skip
    return parse_config(AutoencoderConfig, values, source="test")


@pytest.fixture
def patches(site, tmp_path):
    make_patches(site, tmp_path / "images")
    return site


def published(folder, name):
    torch.manual_seed(0)
    match name:
        case "taef2":
            save_pth(folder, taesd(pool=True), name="taef2")
        case "tiny":
            tiny().save_pretrained(folder)
        case "dc":
            dc().save_pretrained(folder)
        case "kl-16":
            kl_of_16().save_pretrained(folder)
    return folder


@pytest.fixture
def taken(patches, tmp_path):
    return autoencoder(import_config(published(tmp_path / "taef2", "taef2")), patches)


@pytest.mark.parametrize(
    ("name", "network", "posterior"),
    [
        ("taef2", "TaesdAutoencoder", "none"),
        ("tiny", "AutoencoderTiny", "none"),
        ("dc", "AutoencoderDC", "none"),
        ("kl-16", "AutoencoderKL", "gaussian"),
    ],
)
def test_every_class_is_measured_alike(patches, tmp_path, name, network, posterior):
    artifact = autoencoder(import_config(published(tmp_path / name, name)), patches)
    contents = artifact.manifest.contents
    assert (contents["network"], contents["posterior"]) == (network, posterior)
    assert {"psnr_db", "ssim", "perceptual_distance", "equivariance"} <= contents.keys()
    metrics = json.loads((artifact.path / "metrics.json").read_bytes())
    assert any(metrics["posterior_std"]) == (posterior == "gaussian")
    scaling = contents["published_scaling"]
    assert scaling.get("shift_factor") == {"kl-16": 0.12, "tiny": 0.0}.get(name)
    rates = artifact.manifest.provenance["images_per_second"]
    assert rates.keys() == {"encode", "decode"}
    assert all(rate > 0 for rate in rates.values())


def test_rates_are_no_part_of_the_content(taken, patches, tmp_path):
    again = autoencoder(import_config(tmp_path / "taef2", "again"), patches)
    assert again.manifest.content_sha256 == taken.manifest.content_sha256


def test_other_weights_in_the_same_files_are_drift(taken, patches, tmp_path):
    config = import_config(tmp_path / "taef2")
    assert autoencoder(config, patches).manifest == taken.manifest
    pair = {half: str(tmp_path / f"taef2/taef2_{half}.pth") for half in ("encoder", "decoder")}
    same = import_config(pair["encoder"], decoder=pair["decoder"])
    assert autoencoder(same, patches).manifest == taken.manifest
    save_pth(tmp_path / "taef2", taesd(pool=True), name="taef2")
    with pytest.raises(ArtifactDrift):
        autoencoder(config, patches)


@pytest.mark.parametrize("name", ["taef2", "tiny", "dc"])
@pytest.mark.parametrize("loss", [{}, {"adversarial": {"weight": 0.5, "start_images": 0}}])
def test_decoder_of_every_class_can_be_tuned(patches, tmp_path, name, loss):
    if loss:
        loss["adversarial"] |= {"width": 8, "layers": 2}
    taken = autoencoder(import_config(published(tmp_path / name, name)), patches)
    tuned = autoencoder(decoder_config(source="taken@v1", loss=loss, steps=20), patches)
    before, after = taken.manifest.contents, tuned.manifest.contents
    assert after["encoder_sha256"] == before["encoder_sha256"]
    assert after["decoder_sha256"] != before["decoder_sha256"]
    assert after["psnr_db"] > before["psnr_db"]
    assert after["posterior"] == "none"


def test_tuning_with_checkpointed_activations_is_refused_where_there_are_none(patches, tmp_path):
    autoencoder(import_config(published(tmp_path / "dc", "dc")), patches)
    config = decoder_config(source="taken@v1")
    train = config.mode.train.model_copy(update={"activation_checkpointing": True})
    mode = config.mode.model_copy(update={"train": train})
    with pytest.raises(ConfigError, match="activation_checkpointing: AutoencoderDC has none"):
        autoencoder(config.model_copy(update={"mode": mode}), patches)


def test_decoder_that_normalises_over_batches_is_not_tuned(patches, tmp_path):
    dc(decoder_norm="batch_norm").save_pretrained(tmp_path / "dc")
    autoencoder(import_config(tmp_path / "dc"), patches)
    with pytest.raises(ConfigError, match="normalises over batches"):
        autoencoder(decoder_config(source="taken@v1"), patches)


def test_latents_without_noise_go_through_store_whitening_and_draws(taken, patches):
    artifact = make_latents(patches, autoencoder="taken@v1", name="toy")
    store = LatentStore.open(artifact.path)
    moments = store.read(0, store.num_rows)
    means, stds = np.split(moments, 2, axis=1)
    assert not stds.any()
    network = load_autoencoder(taken.path, device="cpu")
    assert store.encoder_sha256 == network.encoder_sha256
    assert reencoding_problems(artifact, store, patches, rows=4) == []
    recorded = artifact.manifest.contents["statistics"]
    assert not any(recorded["posterior_variance"])
    views = {view: mixture_whitening([store], [1.0], view=view) for view in ("sample", "mean")}
    assert views["sample"] == views["mean"]
    drawn = {
        view: posterior_draws(
            moments, range(len(moments)), whitening=views[view], seed=0, purpose="x", view=view
        ).clean_BCHW
        for view in views
    }
    assert torch.equal(drawn["sample"], drawn["mean"])
    whitened = drawn["sample"].numpy()
    train = store.rows_of_split("train")
    np.testing.assert_allclose(whitened[train].mean(axis=(0, 2, 3)), 0, atol=1e-2)
    np.testing.assert_allclose(whitened[train].std(axis=(0, 2, 3)), 1, rtol=1e-2)
    back = network.decode(views["mean"].invert(drawn["mean"]))
    direct = network.decode(torch.from_numpy(means.astype(np.float32)))
    assert (back.float() - direct.float()).abs().max() <= 1
    make_denoiser(patches, name="toy")
    denoiser = open_artifact(patches.storage_root, Reference("denoisers/toy@v1"))
    assert denoiser.manifest.contents["encoder_sha256"] == network.encoder_sha256
