"""What a denoiser's network costs: parameters, FLOPs of an image, and the shapes of its attention.

Counted, not guessed: PyTorch's ``FlopCounterMode`` follows one forward and backward pass over
tensors without memory. A multiply-add is 2 FLOPs; normalisation, activations and additions are not
counted, as is usual for MFU. Whatever attention kernel runs, the products ``q k^T`` and ``w v``
count once: what a fused kernel computes again in the backward pass is no useful work.
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from histodiff.kernels.attention import AttentionConfig
from histodiff.kernels.autotune import AttentionShape
from histodiff.models.denoiser import Denoiser
from histodiff.models.dit import DiTConfig
from histodiff.models.network import create_network
from histodiff.models.unet import UNetConfig
from histodiff.models.weights import num_parameters

_META = torch.device("meta")


@dataclass(frozen=True)
class ImageFlops:
    """FLOPs of one image."""

    forward: int
    training: int
    """Forward and backward, and what self-conditioning adds."""


@dataclass(frozen=True)
class NetworkCost:
    """Size and work of a network."""

    parameters: int
    flops: ImageFlops
    attention: Counter[AttentionShape]
    """Shapes of the attention modules, and how many have each."""


def flops_per_image(denoiser: Denoiser) -> ImageFlops:
    """FLOPs that the network of ``denoiser`` does for one image; what MFU is computed from."""
    config, shape = denoiser.config, denoiser.latent_shape
    flops = network_cost(config.network, shape, config.input_channels(shape[0])).flops
    if config.self_conditioning is None:
        return flops
    estimates = round(config.self_conditioning.probability * flops.forward)
    return ImageFlops(flops.forward, flops.training + estimates)


@lru_cache(maxsize=16)
def network_cost(
    config: UNetConfig | DiTConfig,
    latent_shape: tuple[int, int, int],
    input_channels: int | None = None,
) -> NetworkCost:
    """The cost of a network for latents of shape (C, h, w), from C or other ``input_channels``.

    Raises:
        ConfigError: The network does not fit the latent.
    """
    plain = config.model_copy(update={"attention": AttentionConfig(backend="math")})
    with _META:  # no weights are drawn, so the caller's random state stays as it is
        network: Any = create_network(
            plain, latent_shape=latent_shape, device=_META, input_channels=input_channels
        )
    channels, height, width = latent_shape
    shape = (1, input_channels or channels, height, width)
    given = (torch.empty(shape, device=_META), torch.empty((1,), device=_META))
    attention = _attention_counter(network)
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        output = network(*given).sample
        forward = counter.get_total_flops()
        torch.autograd.grad(output.sum(), list(network.parameters()))
    return NetworkCost(
        parameters=num_parameters(network),
        flops=ImageFlops(forward, counter.get_total_flops()),
        attention=attention,
    )


def _attention_counter(network: nn.Module) -> Counter[AttentionShape]:
    """Counts the attention modules of ``network`` by shape, whenever it runs."""
    seen: Counter[AttentionShape] = Counter()

    def note(part: Any, given: tuple[Tensor, ...]) -> None:
        (states,) = given
        tokens = states.shape[2:].numel() if states.ndim == 4 else states.shape[1]
        seen[AttentionShape(part.heads, tokens, part.inner_dim // part.heads)] += 1

    for part in network.modules():
        if hasattr(part, "set_processor"):
            part.register_forward_pre_hook(note)
    return seen
