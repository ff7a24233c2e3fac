"""A denoiser that starts from a UNet which diffusers saved."""

import json

import pytest
import torch
from diffusers import UNet2DModel

from histodiff.errors import ConfigError
from histodiff.models.pretrained import UNetSource, absolute_source, source_sha256, start_from
from histodiff.models.unet import UNetConfig, create_unet

CONFIG = UNetConfig(
    type="unet", channels=(16, 32), attention_levels=(False, True), blocks_per_level=1, head_dim=8,
    norm_groups=8, time_conditioning="add",
)  # fmt: skip


def saved_by_diffusers(folder, **changes):
    torch.manual_seed(3)
    settings = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 8, **changes,
    }  # fmt: skip
    unet = UNet2DModel(**settings)
    unet.save_pretrained(folder)
    return unet


def ours(config=CONFIG, shape=(4, 8, 8)):
    torch.manual_seed(0)
    return create_unet(config, latent_shape=shape, device=torch.device("cpu"))


@pytest.mark.parametrize("subfolder", [None, "unet"])
def test_unet_of_diffusers_gives_the_same_output_here(tmp_path, subfolder):
    theirs = saved_by_diffusers(tmp_path / (subfolder or ""))
    unet = ours()
    x, time = torch.randn((2, 4, 8, 8)), torch.tensor([3.0, 500.0])
    assert not unet(x, time).sample.any()  # the last convolution starts at zero
    start_from(unet, UNetSource(source=str(tmp_path), subfolder=subfolder))
    torch.testing.assert_close(unet(x, time).sample, theirs(x, time).sample, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({"in_channels": 3}, {}, r"conv_in\.weight is \(16, 3, 3, 3\) there and \(16, 4, 3, 3\)"),
        ({}, {"blocks_per_level": 2}, r"it has no down_blocks\.0\.resnets\.1\."),
        ({"num_class_embeds": 3}, {}, r"it has class_embedding\.weight, which is not here"),
        ({"attention_head_dim": 16}, {}, r"heads there"),
        ({"norm_num_groups": 4}, {}, r"4 groups there and 8 here"),
    ],
)
def test_unet_that_does_not_fit_is_one_line_with_the_first_difference(
    tmp_path, changes, config, message
):
    saved_by_diffusers(tmp_path, **changes)
    unet = ours(CONFIG.model_copy(update=config))
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    with pytest.raises(ConfigError, match=message) as error:
        start_from(unet, UNetSource(source=str(tmp_path)))
    assert "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())


def test_digest_changes_with_the_weights(tmp_path):
    saved_by_diffusers(tmp_path)
    source = UNetSource(source=str(tmp_path))
    first = source_sha256(source)
    assert source_sha256(absolute_source(source)) == first
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert source_sha256(source) != first


def test_source_of_another_model_or_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(ConfigError, match=r"AutoencoderKL, not a UNet2DModel"):
        source_sha256(UNetSource(source=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(ConfigError, match="safetensors"):
        source_sha256(UNetSource(source=str(tmp_path)))


def test_source_on_the_hub_needs_a_revision():
    with pytest.raises(ConfigError, match=r"init\.revision"):
        source_sha256(UNetSource(source="someone/some-unet"))
