"""A network that judges overlapping patches of a picture: a discriminator, or a small classifier.

The network of Isola et al. 2017 (PatchGAN), as VQGAN and LDM use it, but with group instead of
batch normalisation: a picture is judged by itself, whatever else is in its micro-batch. Legend: B
batch, C channels, H height, W width, K outputs.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

_SLOPE = 0.2
_FIRST_STD = 0.02
_MOST_WIDER = 8
_GROUPS = 8


class PatchNetwork(nn.Module):
    """Outputs for overlapping patches.

    Args:
        width: Channels of the first layer; a multiple of 8.
        layers: Layers that halve the resolution; with 3 a patch is 70 px wide.
        outputs: Outputs for each patch.
    """

    def __init__(self, *, width: int, layers: int, outputs: int) -> None:
        super().__init__()
        widths = [width * min(2**layer, _MOST_WIDER) for layer in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE)]
        for number, (before, after) in enumerate(pairwise(widths), start=1):
            stride = 2 if number < layers else 1
            parts += [
                nn.Conv2d(before, after, 4, stride=stride, padding=1),
                nn.GroupNorm(_GROUPS, after),
                nn.LeakyReLU(_SLOPE),
            ]
        parts.append(nn.Conv2d(widths[-1], outputs, 4, padding=1))
        self.layers = nn.Sequential(*parts)
        for part in parts:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=_FIRST_STD)
                assert part.bias is not None
                nn.init.zeros_(part.bias)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Logits (B, K, h, w), fp32, of pixels in -1..1."""
        logits_BKHW: Tensor = self.layers(pixels_BCHW)
        return logits_BKHW.float()


def smallest_side_px(layers: int) -> int:
    """Side of the smallest picture with a patch: two layers lose a pixel each after the others."""
    return int(3 * 2**layers)


def create_patch_network(*, width: int, layers: int, outputs: int, seed: int) -> PatchNetwork:
    """A network with its first weights, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PatchNetwork(width=width, layers=layers, outputs=outputs)
