"""fp32 exponential moving averages of the weights, kept where the weights are.

They average the parts of the fp32 weights that this rank owns under ZeRO (all of them at stage 0),
element by element, so no step gathers anything. There is one average for each half-life of the
config. The clock is ``images_seen``.
"""

from collections.abc import Sequence

import torch

from histodiff.training.config import EmaConfig


def ema_decay(half_life: float, *, rampup: float | None, images_seen: int, batch: int) -> float:
    """Share of the old average that survives the step that ends at ``images_seen``.

    Half-life in images, shortened at the start (Karras et al. 2024, code of EDM2): with
    ``h = min(half_life, rampup * images_seen)``, ``decay = 0.5 ** (batch / h)``.
    """
    if rampup is not None:
        half_life = min(half_life, rampup * images_seen)
    return float(0.5 ** (batch / half_life))


class WeightAverages:
    """The averages of this rank's parts of the weights, one for each half-life.

    Args:
        masters: This rank's parts of the fp32 weights, as the engine gives them.
        config: Half-lives; None keeps no average.
        batch: Images of one step.
    """

    def __init__(
        self, masters: Sequence[torch.Tensor], *, config: EmaConfig | None, batch: int
    ) -> None:
        self._half_lives = () if config is None else config.half_lives_images
        self._rampup = None if config is None else config.rampup
        self._batch = batch
        self.parts = tuple(
            [master.detach().float().clone() for master in masters] for _ in self._half_lives
        )
        """For each half-life, parts laid out as the masters."""

    @torch.no_grad()
    def update(self, masters: Sequence[torch.Tensor], *, images_seen: int) -> None:
        """Takes in the weights after the step that ends at ``images_seen``."""
        weights = [master.detach() for master in masters]
        for half_life, parts in zip(self._half_lives, self.parts, strict=True):
            decay = ema_decay(
                half_life, rampup=self._rampup, images_seen=images_seen, batch=self._batch
            )
            torch._foreach_lerp_(parts, weights, 1.0 - decay)

    def states(self) -> dict[str, list[torch.Tensor]]:
        """The parts by a name for each half-life, for a checkpoint."""
        return {f"average{number}": parts for number, parts in enumerate(self.parts)}
