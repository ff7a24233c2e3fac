"""Autoencoders of type ``patch`` that start as the best linear map of generated textures."""

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from histodiff.models.autoencoder import (
    PatchArchitecture,
    PatchAutoencoder,
    create_network,
    principal_components,
    start_from_linear,
)


def textures(count: int, side: int = 32) -> npt.NDArray[np.uint8]:
    """Smooth coloured noise, NHWC: neighbouring pixels are alike, as in tissue."""
    noise = torch.randn(count, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(0))
    smooth = functional.interpolate(noise, size=(side, side), mode="bicubic")
    colours = torch.tensor([[1.0, 0.2, 0.1], [0.3, 0.8, 0.1], [0.1, 0.2, 0.6]])
    mixed = torch.einsum("nchw,dc->nhwd", smooth, colours) * 40 + 128
    pixels: npt.NDArray[np.uint8] = mixed.clamp(0, 255).round().to(torch.uint8).numpy()
    return pixels


def patch_autoencoder(**changes: int | float) -> PatchAutoencoder:
    """Eight channels at a quarter of the side; a linear map until it is trained."""
    fields = {"downsampling": 4, "latent_channels": 8, "width": 8} | changes
    torch.manual_seed(0)
    network: PatchAutoencoder = create_network(PatchArchitecture(type="patch", **fields))
    linear = principal_components(
        textures(64),
        side=network.config.downsampling,
        count=network.config.latent_channels,
        seed=0,
    )
    start_from_linear(network, linear)
    return network
