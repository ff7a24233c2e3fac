"""The autoencoder: a network of ``NETWORKS`` behind pixels in and raw latents out.

Raw latents carry no scaling factor: whitening belongs to the denoiser. The encoder and the decoder
have a digest each, because latents are bound to the encoder alone. Legend: B batch, C channels,
H height, W width.
"""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from histodiff.errors import ConfigError
from histodiff.kernels.attention import install_attention
from histodiff.models.autoencoder.networks import (
    AutoencoderNetwork,
    PosteriorType,
    channel_symmetries,
    downsampling,
    latent_channels,
    posterior,
    posterior_type,
)
from histodiff.runtime.symmetries import ChannelSymmetries

_ENCODER = ("encoder.", "quant_conv.")
_DECODER = ("decoder.", "post_quant_conv.")


class LatentMoments(NamedTuple):
    """Posterior of raw latents: mean and standard deviation, fp32, BCHW each."""

    mean: Tensor
    std: Tensor


class Autoencoder:
    """Pixels to raw latents and back. Not trained through this class; see ``network``."""

    def __init__(self, network: AutoencoderNetwork, *, device: str = "cpu") -> None:
        self.encoder_sha256 = weights_sha256(network, _ENCODER)
        """Digest of the encoder's weights."""
        self.decoder_sha256 = weights_sha256(network, _DECODER)
        """Digest of the decoder's weights."""
        network = network.to(device, memory_format=torch.channels_last)
        self.network: AutoencoderNetwork = network.eval().requires_grad_(requires_grad=False)
        install_attention(self.network, "auto", device=torch.device(device))

    @property
    def downsampling(self) -> int:
        """Pixels per latent position along one side."""
        return downsampling(self.network)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return latent_channels(self.network)

    @property
    def posterior_type(self) -> PosteriorType:
        """Whether latents have posterior noise; without any, ``encode`` gives a std of 0."""
        return posterior_type(self.network)

    @property
    def symmetries(self) -> ChannelSymmetries | None:
        """What turning the tissue does to the channels of its latent."""
        return channel_symmetries(self.network)

    @torch.no_grad()
    def encode(self, pixels_BCHW: Tensor) -> LatentMoments:
        """Posterior of raw latents of uint8 pixels.

        Raises:
            ConfigError: The side of the pixels is no multiple of ``downsampling``.
        """
        height, width = pixels_BCHW.shape[-2:]
        if height % self.downsampling or width % self.downsampling:
            raise ConfigError(
                f"patches of {width}x{height} px are no multiple of the autoencoder's downsampling"
                f" ({self.downsampling}); choose another patch_px"
            )
        device, dtype = self.network.device, self.network.dtype
        # pixels uint8 BCHW -> raw latents fp32 BCHW
        found = posterior(self.network, signed_pixels(pixels_BCHW.to(device)).to(dtype))
        return LatentMoments(found.mean.float(), found.std.float())

    @torch.no_grad()
    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """uint8 pixels, BCHW, of raw latents."""
        device, dtype = self.network.device, self.network.dtype
        # raw latents BCHW -> pixels uint8 BCHW
        return unsigned_pixels(self.network.decode(latents_BCHW.to(device, dtype)).sample)


def signed_pixels(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1."""
    return pixels.float() / 127.5 - 1


def unsigned_pixels(values: Tensor) -> Tensor:
    """Float -1..1 -> uint8 0..255, rounded and clipped."""
    return ((values.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def weights_sha256(network: nn.Module, prefixes: tuple[str, ...]) -> str:
    """SHA-256 over name, shape and fp32 bytes of the weights under ``prefixes``, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if name.startswith(prefixes):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
