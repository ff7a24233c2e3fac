"""The patch autoencoder: residual convolutions on the best linear map of blocks of pixels.

Pixels are unshuffled by the downsampling f, so that everything happens at the resolution of the
latents. A 1x1 convolution is the linear path; beside it residual blocks, whose last layer starts at
zero. With the principal components of training patches in the linear path (``start_from_linear``),
the untrained network is the best linear autoencoder and training can only improve on it (residual
autoencoding: Chen et al. 2025, DC-AE, arXiv 2410.10733). Its latents turn with the tissue
(``symmetries``). The posterior has one fixed width: the decoder learns to bear an error of that
size in every channel, and a denoiser need not draw finer detail. Legend: B batch, C channels,
H height, W width.
"""

import math
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from histodiff.models.autoencoder.principal_components import LinearMap
from histodiff.runtime.symmetries import ChannelSymmetries

_COLOURS = 3


class PatchAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """An autoencoder whose layers all work at the resolution of the latents.

    Args:
        downsampling: Pixels per latent position along one side.
        latent_channels: Channels of a latent.
        width: Channels of the residual blocks.
        encoder_blocks: Residual blocks of the encoder; 0 leaves the linear map alone.
        decoder_blocks: Residual blocks of the decoder; 0 leaves the linear map alone.
        posterior_std: Standard deviation of the posterior, the same everywhere.
        symmetries: ``ChannelSymmetries`` as plain lists; None before ``start_from_linear``.
    """

    _supports_gradient_checkpointing = True

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        downsampling: int,
        latent_channels: int,
        width: int,
        encoder_blocks: int,
        decoder_blocks: int,
        posterior_std: float,
        symmetries: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        block = _COLOURS * downsampling**2
        self.encoder = _Path(block, latent_channels, width=width, blocks=encoder_blocks)
        self.decoder = _Path(latent_channels, block, width=width, blocks=decoder_blocks)

    @property
    def symmetries(self) -> ChannelSymmetries | None:
        """What turning the tissue does to the channels of its latent."""
        stored = self.config.symmetries
        return None if stored is None else ChannelSymmetries.model_validate(stored)

    def encode(self, pixels_BCHW: Tensor) -> AutoencoderKLOutput:
        """``latent_dist`` of pixels in -1..1."""
        mean_BCHW = self.encoder(functional.pixel_unshuffle(pixels_BCHW, self.config.downsampling))
        log_variance = torch.full_like(mean_BCHW, 2 * math.log(self.config.posterior_std))
        moments = torch.cat([mean_BCHW, log_variance], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, latents_BCHW: Tensor) -> DecoderOutput:
        """``sample``: pixels in -1..1."""
        blocks_BCHW = self.decoder(latents_BCHW)
        return DecoderOutput(sample=functional.pixel_shuffle(blocks_BCHW, self.config.downsampling))


class _Path(nn.Module):
    """A linear map beside residual blocks: both see the input, and are added."""

    gradient_checkpointing = False

    def __init__(self, inputs: int, outputs: int, *, width: int, blocks: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(inputs, outputs, 1)
        self.conv_in: nn.Conv2d | None = None
        if blocks:
            self.conv_in = nn.Conv2d(inputs, width, 3, padding=1)
            self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
            self.conv_out = nn.Conv2d(width, outputs, 3, padding=1)
            _zero(self.conv_out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        linear_BCHW: Tensor = self.linear(x_BCHW)
        if self.conv_in is None:
            return linear_BCHW
        hidden_BCHW = self.conv_in(x_BCHW)
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                hidden_BCHW = checkpoint(block, hidden_BCHW, use_reentrant=False)
            else:
                hidden_BCHW = block(hidden_BCHW)
        # Added last and out of sight of `conv_out`, whose output is all that a loss pulls at.
        summed_BCHW: Tensor = linear_BCHW + self.conv_out(functional.silu(hidden_BCHW))
        return summed_BCHW


class _Block(nn.Module):
    """Two convolutions beside a way around them, the identity at first; no normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        _zero(self.conv2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        hidden_BCHW = functional.silu(self.conv1(functional.silu(x_BCHW)))
        changed_BCHW: Tensor = x_BCHW + self.conv2(hidden_BCHW)
        return changed_BCHW


def _zero(layer: nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


@torch.no_grad()
def start_from_linear(network: PatchAutoencoder, linear: LinearMap) -> None:
    """Makes an untrained network that linear map, with its symmetries."""
    components = torch.from_numpy(linear.components_CD).float()
    shift_C = torch.from_numpy(-linear.components_CD @ linear.mean_D).float()
    mean_D = torch.from_numpy(np.asarray(linear.mean_D)).float()
    _fill(network.encoder.linear, components, shift_C)
    _fill(network.decoder.linear, components.T, mean_D)
    network.register_to_config(symmetries=linear.channels.model_dump(mode="json"))


def _fill(layer: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight[:, :, None, None])
    assert layer.bias is not None
    layer.bias.copy_(bias)
