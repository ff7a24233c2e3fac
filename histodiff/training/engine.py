"""The DeepSpeed engine: the only door to deepspeed.

An ``Engine`` does optimizer steps over a global batch, on CPU (gloo) and GPU (nccl), with ZeRO 0 to
3. The learning rate is set from outside as a function of ``images_seen``, so DeepSpeed keeps no
schedule. A process group must exist; ``cluster.gang`` makes it.

deepspeed is imported on first use: importing it decides its accelerator (``DS_ACCELERATOR``) for
the life of the process, so the device must be known.
"""

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed

from histodiff.errors import ConfigError
from histodiff.training.config import TrainConfig, deepspeed_config

_TAG = "engine"

MicroLoss = Callable[[torch.nn.Module], torch.Tensor]
"""Mean loss of one micro-batch, given the module to call."""


class StepResult(NamedTuple):
    """What a step saw: the loss over the global batch, and the gradient norm before clipping."""

    loss: float
    grad_norm: float


class Engine:
    """A module under training, with its optimizer, partitioned as ``config.zero_stage`` says.

    Args:
        module: The network, on the device, with the same weights on every rank.
        config: How to train.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, module: torch.nn.Module, *, config: TrainConfig, device: str) -> None:
        self.config = config
        self.world_size = torch.distributed.get_world_size()
        self._deepspeed = _import_deepspeed(device)
        optimizer = torch.optim.AdamW(
            module.parameters(),
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            eps=config.optimizer.eps,
            weight_decay=config.optimizer.weight_decay,
            fused=device == "cuda",
        )
        with _quiet():
            self._engine, *_ = self._deepspeed.initialize(
                model=module,
                optimizer=optimizer,
                config=deepspeed_config(config, world_size=self.world_size),
                dist_init_required=False if self._deepspeed.comm.is_initialized() else None,
            )

    @property
    def module(self) -> torch.nn.Module:
        """The network to call for a forward pass; under ZeRO-3 every rank must call it alike."""
        module: torch.nn.Module = self._engine
        return module

    def step(self, losses: Sequence[MicroLoss], *, images_seen: int) -> StepResult:
        """Does one optimizer step, unless the loss is not finite.

        Args:
            losses: This rank's micro-batches, all of the same size.
            images_seen: The clock at the end of the step; decides the learning rate.

        Returns:
            Loss and gradient norm, equal on every rank. The loss may be non-finite, in which case
            the weights are as before; a non-finite norm means that they are spoiled.
        """
        assert len(losses) == self._engine.gradient_accumulation_steps()
        total = torch.zeros((), dtype=torch.float64, device=self._engine.device)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self.config.lr_at(images_seen)
        for number, loss_of in enumerate(losses):
            loss = loss_of(self._engine)
            total += loss.detach().double()
            self._engine.backward(loss)
            if number == len(losses) - 1:
                mean = float(mean_over_ranks(total / len(losses)))
                if not math.isfinite(mean):
                    return StepResult(mean, float("nan"))
                norm = self._plain_grad_norm() if self.config.zero_stage == 0 else None
            self._engine.step()
        return StepResult(
            mean, float(self._engine.get_global_grad_norm() if norm is None else norm)
        )

    def masters(self) -> list[torch.Tensor]:
        """This rank's parts of the fp32 weights, as the optimizer updates them in place."""
        optimizer = self._engine.optimizer
        match self.config.zero_stage:
            case 0:
                parts = self._engine.module.parameters()
            case 1 | 2:
                parts = optimizer.single_partition_of_fp32_groups
            case 3:
                parts = optimizer.fp32_partitioned_groups_flat
        return [part.detach() for part in parts]

    def gathered(self, parts: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Full fp32 state from parts laid out as ``masters``, on every rank, on the CPU.

        All ranks must call it. The weights are as before afterwards.
        """
        module: torch.nn.Module = self._engine.module
        state = {name: buffer.cpu() for name, buffer in module.named_buffers()}
        with _replaced(self.masters(), parts):
            for name, parameter in module.named_parameters():
                state[name] = self._full(parameter).detach().to("cpu", copy=True)
        return state

    def save(self, folder: Path) -> list[Path]:
        """Writes this rank's part of the state into ``folder``; returns the files.

        DeepSpeed's files are pickles: they stay private, and are hashed before they are loaded.
        """
        (folder / _TAG).mkdir(parents=True, exist_ok=True)
        with _quiet():
            self._engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False)
        return sorted(path for path in (folder / _TAG).iterdir() if path.is_file())

    def load(self, folder: Path) -> None:
        """Takes up the state that all ranks' ``save`` wrote, gathered in one folder.

        Raises:
            ConfigError: DeepSpeed finds no checkpoint there.
        """
        with _quiet():
            loaded, _ = self._engine.load_checkpoint(str(folder), tag=_TAG)
        if loaded is None:
            raise ConfigError(f"{folder}: holds no checkpoint of the engine; remove it to restart")

    def close(self) -> None:
        """Frees what the engine holds; the module keeps its weights at stages 0 to 2."""
        with _quiet():
            self._engine.destroy()
        # Else the next engine of this process would use groups of a process group that has ended.
        self._deepspeed.utils.groups._release_process_group_references(group=None)

    def _plain_grad_norm(self) -> float:
        """Norm of the reduced gradients at stage 0, where DeepSpeed does not tell it."""
        parameters = self._engine.module.parameters()
        return float(
            torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        )

    def _full(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        if self.config.zero_stage == 0:
            return parameter.data
        full: torch.Tensor = self._deepspeed.utils.safe_get_full_fp32_param(parameter)
        return full


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The mean of ``value`` over all ranks, on every rank."""
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


@contextmanager
def _replaced(tensors: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> Iterator[None]:
    """Puts ``values`` into ``tensors`` for a while."""
    kept = [tensor.clone() for tensor in tensors]
    try:
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
        yield
    finally:
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.copy_(value)


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
