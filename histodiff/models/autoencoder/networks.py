"""Which networks there are, and what the rest of the code asks of one, whatever its class.

The rest uses ``decode(z).sample``, ``encoder`` and ``decoder`` as diffusers has them; what differs
from class to class is answered here and nowhere else. A class of our own is added to ``NETWORKS``:
it is a ``ModelMixin`` with ``encode(x).latent_dist`` (or ``.latents``, and a place in
``_DETERMINISTIC``) and ``decode(z).sample``, pixels in -1..1, ``config.latent_channels``,
``config.downsampling`` and, for the adversarial term, ``decoder.conv_out``. Legend: B batch,
C channels, H height, W width.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

from histodiff.errors import ConfigError
from histodiff.models.autoencoder.patch import PatchAutoencoder
from histodiff.models.autoencoder.taesd import TaesdAutoencoder
from histodiff.runtime.symmetries import ChannelSymmetries

AutoencoderNetwork: TypeAlias = Any
"""The network itself, for those that train it: an instance of one of ``NETWORKS``."""

PosteriorType = Literal["gaussian", "none"]
"""Whether latents have posterior noise: ``none`` for a deterministic encoder, whose std is 0."""

NETWORKS: Mapping[str, type[nn.Module]] = {
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
    "AutoencoderDC": AutoencoderDC,
    "TaesdAutoencoder": TaesdAutoencoder,
    "PatchAutoencoder": PatchAutoencoder,
}
"""Classes by the name that ``config.json`` gives them. A file that names none is an
``AutoencoderKL``."""

_DETERMINISTIC = (AutoencoderTiny, AutoencoderDC, TaesdAutoencoder)
_SCALING = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")


class Posterior(NamedTuple):
    """Of raw latents, in the network's own type, BCHW each."""

    mean: Tensor
    std: Tensor
    log_variance: Tensor
    """Of a deterministic encoder minus infinity, and so its KL divergence is infinite."""


def downsampling(network: AutoencoderNetwork) -> int:
    """Pixels per latent position along one side."""
    factor: int
    match network:
        case AutoencoderKL():
            factor = 2 ** (len(network.config.block_out_channels) - 1)
        case AutoencoderTiny() | AutoencoderDC():
            factor = 2 ** (len(network.config.encoder_block_out_channels) - 1)
        case _:
            factor = network.config.downsampling
    return factor


def latent_channels(network: AutoencoderNetwork) -> int:
    """Channels of a latent."""
    channels: int = network.config.latent_channels
    return channels


def posterior_type(network: AutoencoderNetwork) -> PosteriorType:
    """Whether its latents have posterior noise."""
    return "none" if isinstance(network, _DETERMINISTIC) else "gaussian"


def posterior(network: AutoencoderNetwork, values_BCHW: Tensor) -> Posterior:
    """Posterior of raw latents of pixels in -1..1, with gradients where they are asked for."""
    encoded = network.encode(values_BCHW)
    if posterior_type(network) == "gaussian":
        found = encoded.latent_dist
        return Posterior(found.mean, found.std, found.logvar)
    latents = encoded.latent if isinstance(network, AutoencoderDC) else encoded.latents
    return Posterior(latents, torch.zeros_like(latents), torch.full_like(latents, -torch.inf))


def channel_symmetries(network: AutoencoderNetwork) -> ChannelSymmetries | None:
    """What turning the tissue does to the channels of its latent; None leaves them as they are."""
    return network.symmetries if isinstance(network, PatchAutoencoder) else None


def published_scaling(network: AutoencoderNetwork) -> dict[str, Any]:
    """How its authors scale raw latents, as the config of diffusers has it; not applied here."""
    values = {name: network.config.get(name) for name in _SCALING}
    return {name: value for name, value in values.items() if value is not None}


def require_trainable(network: AutoencoderNetwork) -> None:
    """Checks that every crop counts by itself when the decoder is trained.

    Raises:
        ConfigError: It normalises over batches, so that the cut of a batch would change the result.
    """
    for name, part in network.decoder.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            raise ConfigError(
                f"mode.autoencoder: decoder.{name} of this {type(network).__name__} normalises over"
                " batches, which training here does not; use an autoencoder without batch norm"
            )


def last_convolution(network: AutoencoderNetwork) -> nn.Conv2d:
    """The decoder's last convolution.

    Its output is the picture, or has ``3 * n**2`` channels and is shuffled into it, a position to
    ``n * n`` pixels; something may be added afterwards.

    Raises:
        ConfigError: The class of the network has none that is known.
    """
    match network:
        case AutoencoderTiny():
            found = network.decoder.layers[-1]
        case TaesdAutoencoder():
            found = network.decoder[-1]
        case _:
            found = getattr(network.decoder, "conv_out", None)
    if isinstance(network, AutoencoderDC) and not isinstance(found, nn.Conv2d):
        found = found.conv  # in a block that doubles the side
    if not isinstance(found, nn.Conv2d):
        raise ConfigError(
            f"loss.adversarial: no last convolution is known of the decoder of"
            f" {type(network).__name__}; set loss.adversarial to null"
        )
    return found
