"""How far an autoencoder is from treating flipped and turned tissue alike.

A convolutional autoencoder is not equivariant by itself: the latent of a flipped patch is not the
flipped latent. (A flip moves positions, and channels where the autoencoder says so.) Where the
difference is small beside the error of the reconstruction itself, latents may be flipped and turned
in training instead of pixels. Legend: N patches, B batch, C channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histodiff.evaluation.reconstruction import psnr_db
from histodiff.models.autoencoder import LatentMoments, turned
from histodiff.runtime.symmetries import NAMES, ChannelSymmetries


class Codec(Protocol):
    """What is needed of an autoencoder."""

    def encode(self, pixels_BCHW: Tensor) -> LatentMoments:
        """Raw latents of uint8 pixels."""

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """uint8 pixels of raw latents."""

    @property
    def symmetries(self) -> ChannelSymmetries | None:
        """What turning the tissue does to the channels of its latent."""


@dataclass(frozen=True)
class SymmetryError:
    """Errors under one symmetry g of the square, over all patches."""

    symmetry: str
    """Name of g."""
    psnr_to_pixels_db: float
    """decode(g(z)) against g(x), mean over patches: a training image, were g used in training."""
    rmse_to_pixels: float
    """The same as root mean square over all values, in grey levels."""
    psnr_to_decoded_db: float
    """decode(g(z)) against g(decode(z)): what g alone changes."""
    rmse_to_decoded: float
    """The same as root mean square over all values, in grey levels."""
    latent_error: float
    """E(g(x)) against g(E(x)): root mean square over the channels' standard deviations."""


@dataclass(frozen=True)
class Equivariance:
    """Errors under the seven symmetries beside the identity, and of the plain reconstruction."""

    num_patches: int
    psnr_db: float
    """Of the plain reconstruction of the same patches."""
    rmse: float
    """Of the plain reconstruction of the same patches, in grey levels."""
    symmetries: Sequence[SymmetryError]


def equivariance(
    network: Codec, originals_NHWC: npt.NDArray[np.uint8], *, batch: int
) -> Equivariance:
    """Equivariance errors of ``network`` on uint8 patches, of posterior means."""
    x_NCHW = torch.from_numpy(originals_NHWC).permute(0, 3, 1, 2)
    z_NCHW = _means(network, x_NCHW, batch)
    plain_NCHW = _decoded(network, z_NCHW, batch)
    std = z_NCHW.double().std(dim=(0, 2, 3), correction=0)
    found = []
    for which in range(1, len(NAMES)):
        moved_NCHW = turned(z_NCHW, which, channels=network.symmetries)
        decoded = _decoded(network, moved_NCHW, batch)
        encoded = _means(network, turned(x_NCHW, which), batch)
        gap = (encoded - moved_NCHW).double().square().mean(dim=(0, 2, 3)).sqrt()
        pixels, again = turned(x_NCHW, which), turned(plain_NCHW, which)
        found.append(
            SymmetryError(
                symmetry=NAMES[which],
                psnr_to_pixels_db=_mean_psnr(pixels, decoded),
                rmse_to_pixels=_rmse(pixels, decoded),
                psnr_to_decoded_db=_mean_psnr(again, decoded),
                rmse_to_decoded=_rmse(again, decoded),
                latent_error=float((gap / std.clamp_min(torch.finfo(std.dtype).tiny)).mean()),
            )
        )
    return Equivariance(
        num_patches=len(originals_NHWC),
        psnr_db=_mean_psnr(x_NCHW, plain_NCHW),
        rmse=_rmse(x_NCHW, plain_NCHW),
        symmetries=tuple(found),
    )


def _parts(whole: Tensor, batch: int) -> Iterator[Tensor]:
    return iter(torch.split(whole, batch))


def _means(network: Codec, pixels_NCHW: Tensor, batch: int) -> Tensor:
    return torch.cat([network.encode(part).mean.cpu() for part in _parts(pixels_NCHW, batch)])


def _decoded(network: Codec, latents_NCHW: Tensor, batch: int) -> Tensor:
    return torch.cat([network.decode(part).cpu() for part in _parts(latents_NCHW, batch)])


def _mean_psnr(first_NCHW: Tensor, second_NCHW: Tensor) -> float:
    pairs = zip(first_NCHW.numpy(), second_NCHW.numpy(), strict=True)
    return float(np.mean([psnr_db(first, second) for first, second in pairs]))


def _rmse(first_NCHW: Tensor, second_NCHW: Tensor) -> float:
    return float((first_NCHW.double() - second_NCHW.double()).square().mean().sqrt())
