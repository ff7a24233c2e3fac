"""Small networks of every class that can be imported, with random weights, as others save them."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn


def kl(channels: int = 4, **changes: object) -> AutoencoderKL:
    """Halves the side once."""
    levels = 2
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8, 16), norm_num_groups=4, latent_channels=channels, **changes,
    )  # fmt: skip


def kl_of_16() -> AutoencoderKL:
    """As those of SD3 and FLUX: 16 channels, no quantising convolutions, a shift."""
    return kl(
        16, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.36,
        shift_factor=0.12, latents_mean=(0.5,) * 16, latents_std=(2.0,) * 16,
    )  # fmt: skip


def tiny(**changes: object) -> AutoencoderTiny:
    """Halves the side twice."""
    options: dict[str, object] = {
        "encoder_block_out_channels": (8, 8, 8), "num_encoder_blocks": (1, 1, 2),
        "decoder_block_out_channels": (8, 8, 8), "num_decoder_blocks": (2, 1, 1),
    }  # fmt: skip
    return AutoencoderTiny(**{**options, **changes})


def dc(*, stem: bool = False, decoder_norm: str = "rms_norm") -> AutoencoderDC:
    """Halves the side twice; with ``stem`` its first and last layers change the side."""
    layers = (0, 1, 1) if stem else (1, 1, 1)
    blocks = ("ResBlock", "ResBlock", "EfficientViTBlock")
    return AutoencoderDC(
        latent_channels=8, attention_head_dim=8,
        encoder_block_types=blocks, decoder_block_types=blocks,
        encoder_block_out_channels=(8, 16, 16), decoder_block_out_channels=(8, 16, 16),
        encoder_layers_per_block=layers, decoder_layers_per_block=layers,
        encoder_qkv_multiscales=((), (), (5,)), decoder_qkv_multiscales=((), (), (5,)),
        decoder_norm_types=decoder_norm,
    )  # fmt: skip


class _Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class _Block(nn.Module):
    def __init__(self, width: int, *, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )
        if pool:
            self.pool = nn.Sequential(
                nn.Conv2d(width, 4 * width, 1, bias=False), nn.GroupNorm(4, 4 * width), nn.ReLU(),
                nn.Conv2d(4 * width, width, 1, bias=False),
            )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pool(x) if hasattr(self, "pool") else x
        return (self.conv(x) + x).relu()


def _conv(inputs: int, outputs: int, stride: int = 1, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def taesd(*, pool: bool = False, channels: int = 4) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder as TAESD's repository has them, fewer and narrower; halves twice."""
    width = 8
    encoder = nn.Sequential(
        _conv(3, width), _Block(width), _conv(width, width, 2, bias=False), _Block(width),
        _conv(width, width, 2, bias=False), _Block(width, pool=pool), _Block(width, pool=pool),
        _conv(width, channels),
    )  # fmt: skip
    decoder = nn.Sequential(
        _Clamp(), _conv(channels, width), nn.ReLU(), _Block(width, pool=pool),
        nn.Upsample(scale_factor=2), _conv(width, width, bias=False), _Block(width),
        nn.Upsample(scale_factor=2), _conv(width, width, bias=False), _Block(width),
        _conv(width, 3),
    )  # fmt: skip
    return encoder, decoder


def taesana() -> tuple[nn.Sequential, nn.Sequential]:
    """With a stem that halves twice, and other widths towards the latents; halves thrice."""
    encoder = nn.Sequential(
        _conv(3, 4, 2), nn.ReLU(), _conv(4, 8, 2), nn.ReLU(), _Block(8),
        _conv(8, 8, 2, bias=False), _Block(8), _conv(8, 6),
    )  # fmt: skip
    decoder = nn.Sequential(
        _Clamp(), _conv(6, 16), nn.ReLU(), _Block(16),
        nn.Upsample(scale_factor=2), _conv(16, 8, bias=False), _Block(8),
        nn.Upsample(scale_factor=2), _conv(8, 8, bias=False), _Block(8),
        nn.Upsample(scale_factor=2), _conv(8, 8, bias=False), _Block(8), _conv(8, 3),
    )  # fmt: skip
    return encoder, decoder


Halves = tuple[nn.Sequential, nn.Sequential]
FAMILY: dict[str, Callable[[], Halves]] = {
    "taesd": taesd,
    "taef2": lambda: taesd(pool=True),
    "taesana": taesana,
}


def save_pth(folder: Path, halves: Halves, *, name: str = "taesd") -> None:
    """``{name}_encoder.pth`` and ``{name}_decoder.pth`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for half, network in zip(("encoder", "decoder"), halves, strict=True):
        torch.save(network.state_dict(), folder / f"{name}_{half}.pth")
