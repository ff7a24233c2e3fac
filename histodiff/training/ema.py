"""An fp32 exponential moving average of the weights, kept where the weights are.

It averages the parts of the fp32 weights that this rank owns under ZeRO (all of them at stage 0),
element by element, so no step gathers anything. The clock is ``images_seen``.
"""

from collections.abc import Sequence

import torch

from histodiff.training.config import EmaConfig


def ema_decay(config: EmaConfig, *, images_seen: int, batch: int) -> float:
    """Share of the old average that survives the step that ends at ``images_seen``.

    Half-life in images, shortened at the start (Karras et al. 2024, code of EDM2): with
    ``h = min(half_life, rampup * images_seen)``, ``decay = 0.5 ** (batch / h)``.
    """
    half_life = config.half_life_images
    if config.rampup is not None:
        half_life = min(half_life, config.rampup * images_seen)
    return float(0.5 ** (batch / half_life))


class WeightAverage:
    """The average of this rank's parts of the weights.

    Args:
        masters: This rank's parts of the fp32 weights, as the engine gives them.
        config: Half-life.
        batch: Images of one step.
    """

    def __init__(self, masters: Sequence[torch.Tensor], *, config: EmaConfig, batch: int) -> None:
        self._config, self._batch = config, batch
        self.parts = [master.detach().float().clone() for master in masters]

    @torch.no_grad()
    def update(self, masters: Sequence[torch.Tensor], *, images_seen: int) -> None:
        """Takes in the weights after the step that ends at ``images_seen``."""
        decay = ema_decay(self._config, images_seen=images_seen, batch=self._batch)
        for part, master in zip(self.parts, masters, strict=True):
            part.lerp_(master.detach(), 1.0 - decay)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The parts by name, for a checkpoint."""
        return {f"part{number:04d}": part for number, part in enumerate(self.parts)}

    @torch.no_grad()
    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes up the parts that ``tensors`` of the same rank gave."""
        assert tensors.keys() == self.tensors().keys()
        for name, part in self.tensors().items():
            part.copy_(tensors[name])
