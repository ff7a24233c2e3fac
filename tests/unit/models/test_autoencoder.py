import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DModel

from histodiff.errors import ArtifactCorrupt, ArtifactNotFound, ConfigError
from histodiff.models.autoencoder import (
    Autoencoder,
    KlArchitecture,
    autoencoder_preset,
    create_network,
    import_autoencoder,
    load_autoencoder,
    save_autoencoder,
    signed_pixels,
    unsigned_pixels,
)
from histodiff.models.autoencoder import (
    downsampling as downsampling_of,
)
from histodiff.models.weights import num_parameters
from histodiff.storage import storage_path

TINY = KlArchitecture(
    type="kl", channels=(8, 16, 16), latent_channels=3, blocks_per_level=1, norm_groups=4
)


def tiny_network(seed=0):
    torch.manual_seed(seed)
    return create_network(TINY)


def some_pixels(count=2, side=16):
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.integers(0, 256, (count, 3, side, side), dtype=np.uint8))


def test_every_pixel_value_survives_the_way_to_the_network_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    values = signed_pixels(pixels)
    assert (values.min().item(), values.max().item()) == (-1, 1)
    assert torch.equal(unsigned_pixels(values), pixels)
    assert unsigned_pixels(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_encode_gives_the_raw_moments_of_diffusers():
    network = tiny_network()
    autoencoder = Autoencoder(tiny_network())
    pixels = some_pixels()
    moments = autoencoder.encode(pixels)
    with torch.no_grad():
        posterior = network.eval().encode(pixels.float() / 127.5 - 1).latent_dist
    torch.testing.assert_close(moments.mean, posterior.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moments.std, posterior.std, rtol=1e-4, atol=1e-5)
    assert moments.mean.shape == (2, 3, 4, 4)
    assert (autoencoder.downsampling, autoencoder.latent_channels) == (4, 3)


def test_decode_gives_uint8_pixels():
    autoencoder = Autoencoder(tiny_network())
    decoded = autoencoder.decode(torch.zeros(2, 3, 4, 4))
    assert decoded.dtype == torch.uint8
    assert decoded.shape == (2, 3, 16, 16)


def test_pixels_that_cannot_be_halved_are_refused():
    with pytest.raises(ConfigError, match="downsampling"):
        Autoencoder(tiny_network()).encode(some_pixels(side=18))


@pytest.mark.parametrize(
    ("name", "millions", "downsampling"),
    [("tiny", 0.94, 8), ("small", 3.75, 8), ("paper", 55.3, 4)],
)
def test_preset_has_the_stated_size(name, millions, downsampling):
    with torch.device("meta"):
        network = create_network(autoencoder_preset(name), device="meta")
    assert num_parameters(network) / 1e6 == pytest.approx(millions, rel=0.01)
    assert downsampling_of(network) == downsampling


def test_digests_tell_encoder_and_decoder_apart():
    before = Autoencoder(tiny_network())
    network = tiny_network()
    with torch.no_grad():
        network.decoder.conv_out.bias += 1
    after = Autoencoder(network)
    assert after.encoder_sha256 == before.encoder_sha256
    assert after.decoder_sha256 != before.decoder_sha256
    with torch.no_grad():
        network.quant_conv.bias += 1
    assert Autoencoder(network).encoder_sha256 != before.encoder_sha256


def test_saved_autoencoder_comes_back_the_same_and_diffusers_reads_it(tmp_path):
    path = storage_path(tmp_path) / "autoencoder"
    autoencoder = Autoencoder(tiny_network())
    save_autoencoder(path, autoencoder)
    loaded = load_autoencoder(path, device="cpu")
    pixels = some_pixels()
    assert torch.equal(loaded.encode(pixels).mean, autoencoder.encode(pixels).mean)
    assert loaded.encoder_sha256 == autoencoder.encoder_sha256
    theirs = AutoencoderKL.from_pretrained(str(tmp_path / "autoencoder"))
    assert Autoencoder(theirs).decoder_sha256 == autoencoder.decoder_sha256


def test_autoencoder_with_other_weights_than_its_digest_is_refused(tmp_path):
    path = storage_path(tmp_path) / "autoencoder"
    with pytest.raises(ArtifactNotFound):
        load_autoencoder(path, device="cpu")
    save_autoencoder(path, Autoencoder(tiny_network(seed=0)))
    other = storage_path(tmp_path) / "other"
    save_autoencoder(other, Autoencoder(tiny_network(seed=1)))
    weights = "diffusion_pytorch_model.safetensors"
    (path / weights).write_bytes((other / weights).read_bytes())
    with pytest.raises(ArtifactCorrupt, match=r"autoencoder\.json"):
        load_autoencoder(path, device="cpu")


@pytest.mark.parametrize("subfolder", [None, "vae"])
def test_import_takes_what_diffusers_saved(tmp_path, subfolder):
    folder = tmp_path / subfolder if subfolder else tmp_path
    network = tiny_network()
    network.save_pretrained(folder)
    imported = import_autoencoder(str(tmp_path), subfolder=subfolder)
    assert imported.encoder_sha256 == Autoencoder(network).encoder_sha256


def test_import_of_another_model_is_refused(tmp_path):
    UNet2DModel(
        block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    ).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(ConfigError, match=r"UNet2DModel.*subfolder"):
        import_autoencoder(str(tmp_path))


def test_import_without_safetensors_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(ConfigError, match="safetensors"):
        import_autoencoder(str(tmp_path))


def test_import_from_the_hub_needs_a_revision():
    with pytest.raises(ConfigError, match="revision"):
        import_autoencoder("someone/some-autoencoder")


def test_import_from_a_hub_that_is_out_of_reach_is_one_clear_error():
    # HF_HUB_OFFLINE is set for all tests
    with pytest.raises(ConfigError, match=r"someone/some-autoencoder.*cannot be loaded"):
        import_autoencoder("someone/some-autoencoder", revision="main")
