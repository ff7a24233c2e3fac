"""What a layer of a denoiser's network makes of its input, and a projection of it that is trained.

Representation alignment (Yu et al. 2025, REPA, arXiv 2410.06940) pulls the projection of a middle
layer towards features that another network has of the clean image. A layer is named as torch names
modules: ``mid_block`` or ``up_blocks.0`` of a UNet, ``blocks.3`` of a transformer. Legend: B batch,
F features, H height, W width of a layer's grid.
"""

from typing import Any

import torch
from torch import Tensor, nn

from histodiff.errors import ConfigError
from histodiff.models.dit import DiT
from histodiff.models.network import Network


class LayerFeatures:
    """Takes down what a layer gives, whenever the network runs.

    Raises:
        ConfigError: The network has no such layer.
    """

    def __init__(self, network: Network, layer: str, *, field: str) -> None:
        blocks = _blocks(network)
        if layer not in blocks:
            raise ConfigError(f"{field}={layer}: no such layer; there are {', '.join(blocks)}")
        self._grid = network.grid if isinstance(network, DiT) else None
        self._last: Tensor | None = None
        blocks[layer].register_forward_hook(self._note)

    def take(self) -> Tensor:
        """Features of the last forward pass, BFHW; they are forgotten here."""
        assert self._last is not None
        features, self._last = self._last, None
        if self._grid is None:
            return features
        return features.transpose(1, 2).reshape(len(features), -1, *self._grid)

    def _note(self, _module: nn.Module, _given: Any, output: Any) -> None:
        self._last = output[0] if isinstance(output, tuple) else output


class Projection(nn.Module):
    """A perceptron on every position of a layer's features, with three layers as in REPA."""

    def __init__(self, num_features: int, *, width: int, num_targets: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(num_features, width, kernel_size=1),
            nn.SiLU(),
            nn.Conv2d(width, width, kernel_size=1),
            nn.SiLU(),
            nn.Conv2d(width, num_targets, kernel_size=1),
        )

    def forward(self, features_BFHW: Tensor) -> Tensor:
        """Of as many features as the target has, BFHW."""
        projected_BFHW: Tensor = self.layers(features_BFHW)
        return projected_BFHW


def layer_shape(
    network: Network, features: LayerFeatures, *, input_shape: tuple[int, int, int]
) -> torch.Size:
    """Shape (F, H, W) of a layer's features for one input of ``input_shape`` (C, h, w)."""
    parameter = next(network.parameters())
    given = torch.zeros((1, *input_shape), device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad():
        network(given, torch.zeros(1, device=parameter.device))
    return features.take().shape[1:]


def _blocks(network: Network) -> dict[str, nn.Module]:
    """Layers whose output can be aligned, in the order they run."""
    if isinstance(network, DiT):
        return {f"blocks.{number}": block for number, block in enumerate(network.blocks)}
    down = {f"down_blocks.{n}": block for n, block in enumerate(network.down_blocks)}
    up = {f"up_blocks.{n}": block for n, block in enumerate(network.up_blocks)}
    return {**down, "mid_block": network.mid_block, **up}
