"""The UNet of the denoiser: diffusers' ``UNet2DModel`` from a config of ours, and its presets.

What differs from diffusers' defaults: the number of heads may be fixed instead of their width, the
last convolution starts at zero (the denoiser starts as ``c_skip x``), and our attention is
installed. Legend of shapes: C channels, h height, w width of a latent.
"""

from typing import Literal, NamedTuple

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from pydantic import Field, model_validator
from torch import nn

from histodiff.config import Config
from histodiff.errors import ConfigError
from histodiff.kernels.attention import AttentionConfig, install_attention


class UNetConfig(Config):
    """Size and shape of a UNet; the latents decide its input and output channels."""

    type: Literal["unet"]
    channels: tuple[int, ...] = Field(min_length=1)
    """Channels of each level, from the latent's resolution downwards, halving it each time."""
    attention_levels: tuple[bool, ...]
    """Whether each level has self-attention."""
    blocks_per_level: int = Field(default=2, ge=1)
    """Residual blocks of each level on the way down (one more on the way up)."""
    head_dim: int | None = Field(default=None, ge=1)
    """Width of an attention head; give this or `num_heads`."""
    num_heads: int | None = Field(default=None, ge=1)
    """Attention heads at every level; give this or `head_dim`."""
    norm_groups: int = Field(default=32, ge=1)
    """Groups of the group normalisation."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout in residual blocks."""
    time_conditioning: Literal["add", "scale_shift"] = "scale_shift"
    """How the noise level enters a residual block."""
    resampling: Literal["conv", "residual"] = "conv"
    """Resampling by a strided convolution, or inside a residual block (as in ADM)."""
    attention: AttentionConfig = AttentionConfig()
    """Implementation of attention."""

    @model_validator(mode="after")
    def _consistent(self) -> "UNetConfig":
        if len(self.attention_levels) != len(self.channels):
            raise ValueError(
                f"attention_levels has {len(self.attention_levels)} entries and channels"
                f" {len(self.channels)}; give one per level"
            )
        if (self.head_dim is None) == (self.num_heads is None):
            raise ValueError("give exactly one of head_dim and num_heads")
        for width in self.channels:
            if width % self.norm_groups or width % (self.head_dim or self.num_heads or 1):
                raise ValueError(
                    f"channels {width} must be a multiple of norm_groups ({self.norm_groups}) and"
                    f" of head_dim or num_heads ({self.head_dim or self.num_heads})"
                )
        return self


class _BlockNames(NamedTuple):
    """diffusers' names of the blocks without attention, and of the resampling in the others."""

    down: str
    up: str
    resampling: str


_BLOCKS = {
    "conv": _BlockNames("DownBlock2D", "UpBlock2D", "conv"),
    "residual": _BlockNames("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D", "resnet"),
}


def create_unet(
    config: UNetConfig,
    *,
    latent_shape: tuple[int, int, int],
    device: torch.device,
    input_channels: int | None = None,
) -> UNet2DModel:
    """A UNet on ``device`` with random weights for latents of shape (C, h, w).

    ``input_channels`` are C unless something else goes in beside the latents.

    Raises:
        ConfigError: The latent cannot be halved once per level, or the attention cannot run.
    """
    channels, height, width = latent_shape
    halvings = 2 ** (len(config.channels) - 1)
    if height % halvings or width % halvings:
        raise ConfigError(
            f"denoiser.network.channels has {len(config.channels)} levels, but latents of"
            f" {height}x{width} px are no multiple of {halvings}; use fewer levels or another"
            " patch_px"
        )
    plain = _BLOCKS[config.resampling]
    unet = UNet2DModel(
        sample_size=(height, width),
        in_channels=input_channels or channels,
        out_channels=channels,
        block_out_channels=config.channels,
        down_block_types=tuple(
            "AttnDownBlock2D" if attends else plain.down for attends in config.attention_levels
        ),
        up_block_types=tuple(
            "AttnUpBlock2D" if attends else plain.up
            for attends in reversed(config.attention_levels)
        ),
        downsample_type=plain.resampling,
        upsample_type=plain.resampling,
        layers_per_block=config.blocks_per_level,
        attention_head_dim=config.head_dim or config.channels[0] // (config.num_heads or 1),
        norm_num_groups=config.norm_groups,
        dropout=config.dropout,
        resnet_time_scale_shift="default" if config.time_conditioning == "add" else "scale_shift",
    )
    if config.num_heads is not None:
        _fix_num_heads(unet, config.num_heads)
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    unet.to(device)
    install_attention(unet, config.attention.backend, device=device)
    return unet


def _fix_num_heads(unet: UNet2DModel, num_heads: int) -> None:
    """Cuts the same projections into ``num_heads``; diffusers can only fix the heads' width."""
    for module in unet.modules():
        if isinstance(module, Attention):
            module.heads = num_heads
            module.scale = (module.inner_dim // num_heads) ** -0.5


UNetPreset = Literal["tiny", "small", "base", "paper"]


def unet_preset(name: UNetPreset) -> UNetConfig:
    """A UNet of a known size; millions of parameters with latents of 4 channels in brackets.

    `tiny` (3.6, for a CPU at 16x16), `small` (67), `base` (252), `paper` (295 with 64x64x3, the ADM
    UNet of HistoDiffusion: width 192, multipliers 1 2 2 4 4, attention at 64, 32, 16 and 8 px,
    8 heads, residual resampling). Why attention is where it is: README.md.
    """
    match name:
        case "tiny":
            return UNetConfig(
                type="unet",
                channels=(48, 96, 128),
                attention_levels=(False, True, False),
                blocks_per_level=1,
                head_dim=16,
                norm_groups=16,
            )
        case "small":
            return UNetConfig(
                type="unet",
                channels=(128, 256, 512),
                attention_levels=(False, True, True),
                head_dim=64,
            )
        case "base":
            return UNetConfig(
                type="unet",
                channels=(192, 384, 768, 768),
                attention_levels=(False, True, True, True),
                head_dim=64,
            )
        case "paper":
            return UNetConfig(
                type="unet",
                channels=(192, 384, 384, 768, 768),
                attention_levels=(True, True, True, True, False),
                num_heads=8,
                resampling="residual",
            )
