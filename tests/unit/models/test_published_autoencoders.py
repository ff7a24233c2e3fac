"""Every class of network that can be imported, against diffusers and TAESD's layers themselves."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file

from histodiff.errors import ArtifactCorrupt, ConfigError
from histodiff.models.autoencoder import (
    Autoencoder,
    KlArchitecture,
    create_network,
    import_autoencoder,
    last_convolution,
    load_autoencoder,
    posterior,
    published_scaling,
    save_autoencoder,
)
from histodiff.storage import storage_path
from tests.support.published_autoencoders import FAMILY, dc, kl, kl_of_16, save_pth, taesd, tiny

CLASSES = {
    "kl-4": (kl, 2, 4, "gaussian"),
    "kl-16": (kl_of_16, 2, 16, "gaussian"),
    "tiny": (tiny, 4, 4, "none"),
    "dc": (dc, 4, 8, "none"),
    "dc-stem": (lambda: dc(stem=True), 4, 8, "none"),
}
FIRST_DIGESTS = (
    "169cb17b3f2ddb7e68f784847cc9fa21c79a6e61dc329099b7b47e16a6755299",
    "322380234298287ad902be43ac570f7bd871bec0fcb1403a2294df7357f8469a",
)
DETERMINISTIC = {name: values for name, values in CLASSES.items() if values[3] == "none"}


def some_pixels(count=2, side=16):
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.integers(0, 256, (count, 3, side, side), dtype=np.uint8))


def made(make):
    torch.manual_seed(0)
    return make()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def as_bytes(values):
    """Pixels in -1..1 as uint8, by hand."""
    return ((values + 1) / 2 * 255).round().clamp(0, 255)


def nearly_equal_pixels(found, expected):
    assert found.dtype == torch.uint8
    assert (found.float() - expected).abs().max() <= 1  # where rounding is on the edge


@pytest.mark.parametrize("name", CLASSES)
def test_imported_network_gives_what_diffusers_gives(tmp_path, name):
    make, downsampling, channels, posterior_type = CLASSES[name]
    network = made(make).eval()
    network.save_pretrained(tmp_path)
    autoencoder = import_autoencoder(str(tmp_path))
    facts = (autoencoder.downsampling, autoencoder.latent_channels, autoencoder.posterior_type)
    assert facts == (downsampling, channels, posterior_type)
    pixels = some_pixels()
    moments = autoencoder.encode(pixels)
    with torch.no_grad():
        encoded = network.encode(pixels.float() / 127.5 - 1)
        if posterior_type == "gaussian":
            mean, std = encoded.latent_dist.mean, encoded.latent_dist.std
        else:
            mean = encoded[0]
            std = torch.zeros_like(mean)
        decoded = network.decode(mean).sample
    close(moments.mean, mean)
    close(moments.std, std)
    nearly_equal_pixels(autoencoder.decode(moments.mean), as_bytes(decoded))


@pytest.mark.parametrize("name", CLASSES)
def test_saved_network_comes_back_the_same_and_diffusers_reads_it(tmp_path, name):
    network = made(CLASSES[name][0])
    autoencoder = Autoencoder(network)
    path = storage_path(tmp_path) / "saved"
    save_autoencoder(path, autoencoder)
    loaded = load_autoencoder(path, device="cpu")
    assert type(loaded.network) is type(network)
    assert loaded.encoder_sha256 == autoencoder.encoder_sha256
    assert torch.equal(loaded.encode(some_pixels()).mean, autoencoder.encode(some_pixels()).mean)
    theirs = type(network).from_pretrained(str(tmp_path / "saved"))
    assert Autoencoder(theirs).decoder_sha256 == autoencoder.decoder_sha256


@pytest.mark.parametrize("name", CLASSES)
def test_each_half_has_its_own_digest(name):
    def digests(half=None):
        network = made(CLASSES[name][0])
        if half is not None:
            with torch.no_grad():
                next(getattr(network, half).parameters()).add_(1)
        autoencoder = Autoencoder(network)
        return autoencoder.encoder_sha256, autoencoder.decoder_sha256

    encoder, decoder = digests()
    assert encoder != decoder
    other = digests("encoder")
    assert other[0] != encoder
    assert other[1] == decoder
    other = digests("decoder")
    assert other[0] == encoder
    assert other[1] != decoder


def test_scaling_is_recorded_and_kept_and_not_applied(tmp_path):
    network = made(kl_of_16)
    network.save_pretrained(tmp_path / "published")
    autoencoder = import_autoencoder(str(tmp_path / "published"))
    expected = {
        "scaling_factor": 0.36, "shift_factor": 0.12, "latents_mean": [0.5] * 16,
        "latents_std": [2.0] * 16,
    }  # fmt: skip
    found = published_scaling(autoencoder.network)
    assert json.loads(json.dumps(found)) == expected
    save_autoencoder(storage_path(tmp_path / "saved"), autoencoder)
    saved = json.loads((tmp_path / "saved/config.json").read_text())
    assert {name: saved[name] for name in expected} == expected
    assert published_scaling(made(kl)) == {"scaling_factor": 0.18215}


@pytest.mark.parametrize("name", FAMILY)
def test_files_of_taesd_give_what_its_layers_give_on_pixels_from_0_to_1(tmp_path, name):
    torch.manual_seed(0)
    encoder, decoder = (half.eval() for half in FAMILY[name]())
    save_pth(tmp_path, (encoder, decoder), name=name)
    autoencoder = import_autoencoder(str(tmp_path))
    assert isinstance(autoencoder.network, AutoencoderTiny) == (name == "taesd")
    assert autoencoder.posterior_type == "none"
    pixels = some_pixels()
    with torch.no_grad():
        latents = encoder(pixels.float() / 255)
        decoded = decoder(latents)
    moments = autoencoder.encode(pixels)
    close(moments.mean, latents)
    assert not moments.std.any()
    assert autoencoder.downsampling == pixels.shape[-1] // latents.shape[-1]
    nearly_equal_pixels(autoencoder.decode(latents), (decoded * 255).round().clamp(0, 255))


@pytest.mark.parametrize("name", FAMILY)
def test_what_was_a_pickle_is_safetensors_once_imported(tmp_path, name):
    torch.manual_seed(0)
    save_pth(tmp_path / "published", FAMILY[name]())
    autoencoder = import_autoencoder(str(tmp_path / "published"))
    save_autoencoder(storage_path(tmp_path / "saved"), autoencoder)
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    weights = "diffusion_pytorch_model.safetensors"
    assert names == {"config.json", weights, "autoencoder.json"}
    assert load_file(tmp_path / "saved" / weights)
    loaded = load_autoencoder(storage_path(tmp_path / "saved"), device="cpu")
    assert loaded.encoder_sha256 == autoencoder.encoder_sha256
    pixels = some_pixels()
    assert torch.equal(loaded.encode(pixels).mean, autoencoder.encode(pixels).mean)


def test_files_of_taesd_and_diffusers_copy_of_them_are_one_encoder(tmp_path):
    torch.manual_seed(0)
    save_pth(tmp_path / "original", taesd())
    original = import_autoencoder(str(tmp_path / "original"))
    original.network.save_pretrained(tmp_path / "copy")
    copy = import_autoencoder(str(tmp_path / "copy"))
    pair = tmp_path / "original/taesd_encoder.pth", tmp_path / "original/taesd_decoder.pth"
    both = import_autoencoder(str(pair[0]), decoder=str(pair[1]))
    assert original.encoder_sha256 == copy.encoder_sha256 == both.encoder_sha256
    assert original.decoder_sha256 == copy.decoder_sha256 == both.decoder_sha256


def test_one_file_needs_the_other_and_both_must_be_there(tmp_path):
    save_pth(tmp_path, taesd())
    encoder = str(tmp_path / "taesd_encoder.pth")
    with pytest.raises(ConfigError, match=r"one file.*mode\.decoder"):
        import_autoencoder(encoder)
    with pytest.raises(ConfigError, match=r"mode\.decoder.*no such file"):
        import_autoencoder(encoder, decoder=str(tmp_path / "gone.pth"))
    with pytest.raises(ConfigError, match=r"mode\.source.*no such file"):
        import_autoencoder(str(tmp_path), decoder=encoder)


def test_folder_with_two_pairs_or_half_a_pair_is_refused(tmp_path):
    save_pth(tmp_path, taesd())
    save_pth(tmp_path, taesd(), name="other")
    with pytest.raises(ConfigError, match=r"several.*other_encoder\.pth, taesd_encoder\.pth"):
        import_autoencoder(str(tmp_path))
    for name in ("other_encoder.pth", "taesd_decoder.pth"):
        (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        import_autoencoder(str(tmp_path))


class _Runs:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


def test_pickle_that_holds_more_than_tensors_is_not_run(tmp_path):
    save_pth(tmp_path, taesd())
    trace = tmp_path / "trace"
    torch.save({"0.weight": _Runs(trace)}, tmp_path / "taesd_encoder.pth")
    with pytest.raises(ConfigError, match="file of tensors alone"):
        import_autoencoder(str(tmp_path))
    (tmp_path / "taesd_encoder.pth").write_bytes(pickle.dumps(_Runs(trace), protocol=2))
    with pytest.raises(ConfigError, match="file of tensors alone"):
        import_autoencoder(str(tmp_path))
    assert not trace.exists()


def test_pickled_weights_of_diffusers_are_refused(tmp_path):
    made(tiny).save_pretrained(tmp_path, safe_serialization=False)
    assert (tmp_path / "diffusion_pytorch_model.bin").exists()
    with pytest.raises(ConfigError, match="safetensors"):
        import_autoencoder(str(tmp_path))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.zeros(3)}, "numbered layer"),
        ({"0.weight": torch.zeros(3)}, "not known"),
        ({"0.weight": 3}, "numbered layer"),
        ({"900000000.weight": torch.zeros(3, 3, 3, 3)}, "numbers without"),
        ({}, "no layers"),
        ([torch.zeros(3)], "no state dict"),
    ],
)
def test_state_that_is_not_of_the_family_is_one_clear_error(tmp_path, state, message):
    save_pth(tmp_path, taesd())
    torch.save(state, tmp_path / "taesd_encoder.pth")
    with pytest.raises(ConfigError, match=message):
        import_autoencoder(str(tmp_path))


def test_halves_of_two_networks_are_refused(tmp_path):
    save_pth(tmp_path, (taesd()[0], taesd(channels=6)[1]))
    with pytest.raises(ConfigError, match=r"mode\.source"):
        import_autoencoder(str(tmp_path))


@pytest.mark.parametrize(
    "make",
    [
        lambda: kl(in_channels=4, out_channels=4),
        lambda: tiny(upsampling_scaling_factor=4),
    ],
    ids=["four-colours", "larger-pictures"],
)
def test_network_that_does_not_give_the_pictures_back_is_refused(tmp_path, make):
    made(make).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="RGB pictures of the size"):
        import_autoencoder(str(tmp_path))


@pytest.mark.parametrize("make", [tiny, dc], ids=["tiny", "dc"])
def test_missing_weights_are_one_clear_error(tmp_path, make):
    made(make).save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"mode\.source.*safetensors"):
        import_autoencoder(str(tmp_path))


def test_files_without_a_class_are_of_autoencoderkl(tmp_path):
    autoencoder = Autoencoder(made(kl))
    save_autoencoder(storage_path(tmp_path), autoencoder)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["_class_name"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_autoencoder(storage_path(tmp_path), device="cpu")
    assert loaded.encoder_sha256 == autoencoder.encoder_sha256


def test_saved_network_of_an_unknown_class_is_refused(tmp_path):
    save_autoencoder(storage_path(tmp_path), Autoencoder(made(kl)))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "_class_name": "VQModel"}))
    with pytest.raises(ArtifactCorrupt, match="VQModel"):
        load_autoencoder(storage_path(tmp_path), device="cpu")


def test_digests_of_kl_autoencoders_are_those_of_the_first_version(tmp_path):
    """Numbers computed by the code of the first version, for weights that anybody can write."""
    network = create_network(
        KlArchitecture(
            type="kl", channels=(8, 16, 16), latent_channels=3, blocks_per_level=1, norm_groups=4
        )
    )
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.copy_((torch.arange(tensor.numel()) % 7 - 3).reshape(tensor.shape) / 8)
    autoencoder = Autoencoder(network)
    assert (
        autoencoder.encoder_sha256
        == "169cb17b3f2ddb7e68f784847cc9fa21c79a6e61dc329099b7b47e16a6755299"
    )
    assert (
        autoencoder.decoder_sha256
        == "322380234298287ad902be43ac570f7bd871bec0fcb1403a2294df7357f8469a"
    )
    save_autoencoder(storage_path(tmp_path), autoencoder)
    record = json.loads((tmp_path / "autoencoder.json").read_text())
    assert record == {
        "format": 1, "encoder_sha256": autoencoder.encoder_sha256, "latent_channels": 3,
        "decoder_sha256": autoencoder.decoder_sha256, "downsampling": 4,
    }  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_last_convolution_makes_the_picture(name):
    network = made(CLASSES[name][0])
    last = last_convolution(network)
    given = []
    last.register_forward_hook(lambda module, inputs, output: given.append(output))
    decoded = network.decode(posterior(network, torch.zeros(1, 3, 16, 16)).mean).sample
    wanted = decoded * 0.5 + 0.5 if name == "tiny" else decoded
    [found] = given
    shuffled = torch.nn.functional.pixel_shuffle(found, wanted.shape[-1] // found.shape[-1])
    close(shuffled, wanted)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_posterior_of_a_deterministic_encoder_has_no_noise(name):
    found = posterior(made(DETERMINISTIC[name][0]), torch.zeros(1, 3, 16, 16))
    assert not found.std.any()
    assert found.log_variance.isneginf().all()


def test_copy_of_a_saved_folder_imports_as_itself(tmp_path):
    save_pth(tmp_path / "published", FAMILY["taef2"]())
    autoencoder = import_autoencoder(str(tmp_path / "published"))
    save_autoencoder(storage_path(tmp_path / "saved"), autoencoder)
    shutil.copytree(tmp_path / "saved", tmp_path / "copy")
    assert import_autoencoder(str(tmp_path / "copy")).encoder_sha256 == autoencoder.encoder_sha256
