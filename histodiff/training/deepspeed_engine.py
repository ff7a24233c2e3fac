"""The engine on the ranks of a gang: DeepSpeed, on CPU (gloo) and GPU (nccl), with ZeRO 0 to 3.

This is the only module that imports deepspeed. A process group must exist; ``cluster.gang`` makes
it. deepspeed is imported on first use: importing it decides its accelerator (``DS_ACCELERATOR``)
for the life of the process, so the device must be known.
"""

import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from histodiff.errors import ConfigError
from histodiff.training import ranks
from histodiff.training.config import TrainConfig, deepspeed_config
from histodiff.training.engine import Engine, MicroLoss, StepResult
from histodiff.training.loss_scale import LossScale
from histodiff.training.optimizer import adamw
from histodiff.training.partitions import Fragment
from histodiff.training.zero import owned_fragments, owned_parts, spread_parts


class DeepSpeedEngine(Engine):
    """A module under training, partitioned over the ranks as ``config.zero_stage`` says.

    Args:
        module: The network, on the device, with the same weights on every rank.
        config: How to train.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, module: torch.nn.Module, *, config: TrainConfig, device: str) -> None:
        super().__init__(
            module,
            zero_stage=config.zero_stage,
            loss_scale=LossScale(config.loss_scale) if config.precision == "fp16" else None,
        )
        self._config = config
        self._deepspeed = _import_deepspeed(device)
        optimizer = adamw(module, config.optimizer, fused=True)
        with _quiet():
            self._engine, *_ = self._deepspeed.initialize(
                model=module,
                optimizer=optimizer,
                config=deepspeed_config(
                    config,
                    world_size=ranks.world_size(),
                    num_parameters=sum(p.numel() for p in module.parameters()),
                ),
                dist_init_required=False if self._deepspeed.comm.is_initialized() else None,
            )
        self._without_scalers()

    @property
    def module(self) -> torch.nn.Module:
        module: torch.nn.Module = self._engine
        return module

    def step(
        self, losses: Sequence[MicroLoss], *, images_seen: int, notice: bool = False
    ) -> StepResult:
        assert len(losses) == self._engine.gradient_accumulation_steps()
        total = torch.zeros((), dtype=torch.float64, device=self._engine.device)
        norm: float | None = None
        self._prepare(images_seen)
        for number, loss_of in enumerate(losses):
            loss = loss_of(self._engine)
            total += loss.detach().double()
            self._engine.backward(self._scaled(loss))
            if number == len(losses) - 1:
                noticed = torch.full_like(total, float(notice))
                means = ranks.mean_over_ranks(torch.stack([total / len(losses), noticed])).tolist()
                if not math.isfinite(means[0]):
                    return StepResult(means[0], float("nan"), noticed=means[1] > 0)
                norm = self._plain_grad_norm() if self.zero_stage == 0 else None
            if norm is None or math.isfinite(norm) or self.loss_scale is None:
                self._engine.step()
            else:
                self._engine.micro_steps += 1  # what a step counts, without the step
        if norm is None:
            norm = float(self._engine.get_global_grad_norm())
        return StepResult(means[0], norm, self._overflowed(norm), noticed=means[1] > 0)

    def close(self) -> None:
        with _quiet():
            self._engine.destroy()
        # Else the next engine of this process would use groups of a process group that has ended.
        self._deepspeed.utils.groups._release_process_group_references(group=None)

    @property
    def _optimizer(self) -> Any:
        return self._engine.optimizer

    def _owned(self) -> list[torch.Tensor]:
        return owned_parts(self._engine, stage=self.zero_stage)

    def _fragments(self) -> list[Fragment]:
        return owned_fragments(self._engine, stage=self.zero_stage)

    def _full(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        if self.zero_stage == 0:
            return parameter.data
        full: torch.Tensor = self._deepspeed.utils.safe_get_full_fp32_param(parameter)
        return full

    def _spread(self) -> None:
        spread_parts(self._engine, stage=self.zero_stage)

    def _without_scalers(self) -> None:
        """Takes DeepSpeed's loss scalers out: one for each rank and group, they may disagree."""
        self._engine.torch_autocast_z0_gradscaler = None
        if self.zero_stage > 0:
            self._engine.optimizer.torch_autocast_gradscaler = None

    def _prepare(self, images_seen: int) -> None:
        """Sets what changes from step to step."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._config.lr_at(images_seen)
        if self.loss_scale is not None and self.zero_stage > 0:
            self._engine.optimizer.override_loss_scale(self.loss_scale.value)

    def _scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """At stage 0 nobody else scales the loss."""
        if self.loss_scale is None or self.zero_stage > 0:
            return loss
        return loss * self.loss_scale.value

    def _overflowed(self, norm: float) -> bool:
        """Whether the step was skipped because of fp16, and not because the weights are bad."""
        if self.loss_scale is None:
            return False
        overflowed = not math.isfinite(norm)
        self.loss_scale.update(overflowed=overflowed)
        return overflowed and not self.loss_scale.is_hopeless

    @torch.no_grad()
    def _plain_grad_norm(self) -> float:
        """Norm of the reduced gradients at stage 0, where DeepSpeed does not tell it.

        Under fp16 it takes the scale out of them, and takes them away where they have overflowed.
        """
        parameters = self._engine.module.parameters()
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.loss_scale is not None:
            torch._foreach_div_(gradients, self.loss_scale.value)
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if self.loss_scale is not None and not math.isfinite(norm):
            self._engine.zero_grad()
            return math.inf
        return norm


def _import_deepspeed(device: str) -> Any:
    """The deepspeed package, bound to ``device``."""
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    with _quiet():
        import deepspeed
        import deepspeed.ops

        accelerator = deepspeed.accelerator.get_accelerator()
    if accelerator.device_name() != device:
        raise ConfigError(
            f"device {device}: deepspeed is bound to {accelerator.device_name()} in this process;"
            " run the command again on its own, or unset DS_ACCELERATOR"
        )
    # The shared-memory collective serves inference only, needs a compiler at run time, and leaves
    # the other ranks spinning when one is killed. Training reduces through gloo.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps deepspeed's warnings about its own and torch's internals from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
