"""The engine of small models: plain torch in this process, without ranks and DeepSpeed.

A guide or a classifier trains for seconds on a few hundred images. DeepSpeed would take longer to
start than that, and there is nothing to partition.
"""

import math
from collections.abc import Sequence

import torch

from histodiff.training.config import OptimizationConfig
from histodiff.training.engine import Engine, MicroLoss, StepResult
from histodiff.training.optimizer import adamw
from histodiff.training.partitions import Fragment, whole_fragments


class LocalEngine(Engine):
    """A module under training in this process, in fp32.

    Parameters with ``requires_grad=False`` stay as they are, and are no part of a checkpoint.

    Args:
        module: The network, on its device.
        config: How to train.
    """

    def __init__(self, module: torch.nn.Module, *, config: OptimizationConfig) -> None:
        super().__init__(module, zero_stage=0)
        self._config = config
        self._trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._adamw = adamw(module, config.optimizer, fused=False)

    @property
    def module(self) -> torch.nn.Module:
        return self._network

    def step(
        self, losses: Sequence[MicroLoss], *, images_seen: int, notice: bool = False
    ) -> StepResult:
        self._adamw.zero_grad(set_to_none=True)
        total = 0.0
        for loss_of in losses:
            loss = loss_of(self._network)
            total += float(loss.detach())
            if not math.isfinite(total):
                return StepResult(total, math.nan, noticed=notice)
            (loss / len(losses)).backward()  # type: ignore[no-untyped-call]
        norm = self._clipped_norm()
        for group in self._adamw.param_groups:
            group["lr"] = self._config.lr_at(images_seen)
        self._adamw.step()
        return StepResult(total / len(losses), norm, noticed=notice)

    def close(self) -> None:
        """Nothing is held."""

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self._adamw

    def _owned(self) -> list[torch.Tensor]:
        return list(self._trained.values())

    def _fragments(self) -> list[Fragment]:
        return whole_fragments(self._trained.items())

    def _clipped_norm(self) -> float:
        """Norm of the gradient, which is clipped as the config says."""
        largest = math.inf if self._config.optimizer.clip is None else self._config.optimizer.clip
        return float(torch.nn.utils.clip_grad_norm_(self._trained.values(), largest))
