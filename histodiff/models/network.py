"""The network of a denoiser, chosen by tag: a UNet or a diffusion transformer.

Both are called as ``network(x_BCHW, noise_B).sample``, have ``enable_gradient_checkpointing``, and
run the attention of ``histodiff.kernels``.
"""

from typing import Annotated, TypeAlias

import torch
from diffusers import UNet2DModel
from pydantic import Field

from histodiff.models.dit import DiT, DiTConfig, create_dit
from histodiff.models.unet import UNetConfig, create_unet

NetworkConfig = Annotated[UNetConfig | DiTConfig, Field(discriminator="type")]
Network: TypeAlias = UNet2DModel | DiT


def create_network(
    config: UNetConfig | DiTConfig,
    *,
    latent_shape: tuple[int, int, int],
    device: torch.device,
    input_channels: int | None = None,
) -> Network:
    """The network on ``device`` with random weights, for latents of shape (C, h, w).

    ``input_channels`` are C unless something else goes in beside the latents.

    Raises:
        ConfigError: It does not fit the latents, or its attention cannot run.
    """
    match config:
        case UNetConfig():
            return create_unet(
                config, latent_shape=latent_shape, device=device, input_channels=input_channels
            )
        case DiTConfig():
            return create_dit(
                config, latent_shape=latent_shape, device=device, input_channels=input_channels
            )
