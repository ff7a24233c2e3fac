"""Which networks there are, and what the rest of the code asks of one, whatever its class.

The rest uses ``decode(z).sample``, ``encoder`` and ``decoder`` as diffusers has them; what differs
from class to class is answered here and nowhere else. A class of our own is added to ``NETWORKS``:
it is a ``ModelMixin`` with ``encode(x).latent_dist`` and ``decode(z).sample`` (pixels in -1..1),
``config.latent_channels``, ``config.downsampling`` and, for the adversarial term,
``decoder.conv_out``. Legend: B batch, C channels, H height, W width.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from diffusers import AutoencoderKL
from torch import Tensor, nn

from histodiff.errors import ConfigError

AutoencoderNetwork: TypeAlias = Any
"""The network itself, for those that train it: an instance of one of ``NETWORKS``."""

PosteriorType = Literal["gaussian", "none"]
"""Whether latents have posterior noise: ``none`` for a deterministic encoder, whose std is 0."""

NETWORKS: Mapping[str, type[nn.Module]] = {"AutoencoderKL": AutoencoderKL}
"""Classes by the name that ``config.json`` gives them. A file that names none is an
``AutoencoderKL``."""


class Posterior(NamedTuple):
    """Of raw latents, in the network's own type, BCHW each."""

    mean: Tensor
    std: Tensor
    log_variance: Tensor


def downsampling(network: AutoencoderNetwork) -> int:
    """Pixels per latent position along one side."""
    factor: int
    if isinstance(network, AutoencoderKL):
        factor = 2 ** (len(network.config.block_out_channels) - 1)
    else:
        factor = network.config.downsampling
    return factor


def latent_channels(network: AutoencoderNetwork) -> int:
    """Channels of a latent."""
    channels: int = network.config.latent_channels
    return channels


def posterior_type(network: AutoencoderNetwork) -> PosteriorType:
    """Whether its latents have posterior noise."""
    del network
    return "gaussian"


def posterior(network: AutoencoderNetwork, values_BCHW: Tensor) -> Posterior:
    """Posterior of raw latents of pixels in -1..1, with gradients where they are asked for."""
    found = network.encode(values_BCHW).latent_dist
    return Posterior(found.mean, found.std, found.logvar)


def last_convolution(network: AutoencoderNetwork) -> nn.Conv2d:
    """The decoder's last convolution.

    Its output is the picture, or has ``3 * n**2`` channels and is shuffled into it, a latent pixel
    to ``n * n`` pixels; something may be added afterwards.

    Raises:
        ConfigError: The class of the network has none that is known.
    """
    found = getattr(network.decoder, "conv_out", None)
    if not isinstance(found, nn.Conv2d):
        raise ConfigError(
            f"loss.adversarial: no last convolution is known of the decoder of"
            f" {type(network).__name__}; set loss.adversarial to null"
        )
    return found
