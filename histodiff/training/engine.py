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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed
from safetensors.torch import load_file, save_file

from histodiff.errors import ConfigError
from histodiff.training.checkpoints import CheckpointRecord
from histodiff.training.config import TrainConfig, deepspeed_config
from histodiff.training.loss_scale import LossScale
from histodiff.training.partitions import Parts, read_parts, write_parts
from histodiff.training.zero import owned_fragments, owned_parts, spread_parts

_PART, _SHARED = "part-", "shared.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")

MicroLoss = Callable[[torch.nn.Module], torch.Tensor]
"""Mean loss of one micro-batch, given the module to call."""


class StepResult(NamedTuple):
    """What a step saw, equal on every rank."""

    loss: float
    """Mean over the global batch."""
    grad_norm: float
    """Before clipping."""
    skipped: bool = False
    """Whether fp16 overflowed, so that the weights are as before."""
    noticed: bool = False
    """Whether any rank gave notice."""


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
            fused=True,
        )
        self.loss_scale = LossScale(config.loss_scale) if config.precision == "fp16" else None
        with _quiet():
            self._engine, *_ = self._deepspeed.initialize(
                model=module,
                optimizer=optimizer,
                config=deepspeed_config(
                    config,
                    world_size=self.world_size,
                    num_parameters=sum(p.numel() for p in module.parameters()),
                ),
                dist_init_required=False if self._deepspeed.comm.is_initialized() else None,
            )
        self._without_scalers()

    @property
    def module(self) -> torch.nn.Module:
        """The network to call for a forward pass; under ZeRO-3 every rank must call it alike."""
        module: torch.nn.Module = self._engine
        return module

    def step(
        self, losses: Sequence[MicroLoss], *, images_seen: int, notice: bool = False
    ) -> StepResult:
        """Does one optimizer step, unless the loss is not finite.

        Args:
            losses: This rank's micro-batches, all of the same size.
            images_seen: The clock at the end of the step; decides the learning rate.
            notice: What every rank is to know after the step; travels with the loss.

        Returns:
            Loss and gradient norm. The loss may be non-finite, in which case the weights are as
            before. So they are after a skipped step. Any other non-finite norm means that they
            are spoiled.
        """
        assert len(losses) == self._engine.gradient_accumulation_steps()
        total = torch.zeros((), dtype=torch.float64, device=self._engine.device)
        norm: float | None = None
        self._prepare(images_seen)
        for number, loss_of in enumerate(losses):
            loss = loss_of(self._engine)
            total += loss.detach().double()
            self._engine.backward(self._scaled(loss))
            if number == len(losses) - 1:
                told = torch.full_like(total, float(notice))
                means = mean_over_ranks(torch.stack([total / len(losses), told])).tolist()
                if not math.isfinite(means[0]):
                    return StepResult(means[0], float("nan"), noticed=means[1] > 0)
                norm = self._plain_grad_norm() if self.config.zero_stage == 0 else None
            if norm is None or math.isfinite(norm) or self.loss_scale is None:
                self._engine.step()
            else:
                self._engine.micro_steps += 1  # what a step counts, without the step
        if norm is None:
            norm = float(self._engine.get_global_grad_norm())
        return StepResult(means[0], norm, self._overflowed(norm), noticed=means[1] > 0)

    def masters(self) -> list[torch.Tensor]:
        """This rank's parts of the fp32 weights, as the optimizer updates them in place."""
        return [part.detach() for part in self._owned()]

    def states(self) -> dict[str, Parts]:
        """This rank's parts of the weights and of both moments, by name."""
        state = self._engine.optimizer.state
        if any(part not in state for part in self._owned()):
            self._set_moments(torch.tensor(0.0))
        moments = {key: [state[part][key] for part in self._owned()] for key in _MOMENTS}
        return {"weight": self.masters(), **moments}

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

    def save(self, folder: Path, *, averages: Mapping[str, Parts]) -> None:
        """Writes this rank's part of the state into ``folder``.

        Args:
            folder: Where to write; names of files differ by rank.
            averages: Parts laid out as ``masters``, to be kept with them.
        """
        rank = torch.distributed.get_rank()
        if rank == 0 or self.config.zero_stage > 0:
            states = {**self.states(), **averages}
            write_parts(
                folder / _part_name(rank),
                owned_fragments(self._engine, stage=self.config.zero_stage),
                states,
            )
        if rank == 0:
            save_file(self._shared(), folder / _SHARED)

    def needed(self, record: CheckpointRecord) -> list[str]:
        """The files of a checkpoint that ``load`` reads on this rank."""
        if (record.world_size, record.zero_stage) == (self.world_size, self.config.zero_stage):
            rank = torch.distributed.get_rank() if self.config.zero_stage > 0 else 0
            return [_part_name(rank), _SHARED]
        return [*sorted(name for name in record.files if name.startswith(_PART)), _SHARED]

    def load(
        self, folder: Path, *, record: CheckpointRecord, averages: Mapping[str, Parts]
    ) -> None:
        """Takes up the state that any number of ranks saved at any ZeRO stage.

        Args:
            folder: Has the files that ``needed`` names.
            record: The checkpoint's.
            averages: Filled in place.

        Raises:
            ArtifactCorrupt: The files do not hold every parameter.
        """
        shared = load_file(folder / _SHARED)
        self._set_moments(shared["optimizer_step"])
        files = [folder / name for name in self.needed(record) if name.startswith(_PART)]
        read_parts(
            files,
            owned_fragments(self._engine, stage=self.config.zero_stage),
            {**self.states(), **averages},
        )
        for name, buffer in self._engine.module.named_buffers():
            buffer.copy_(shared[f"buffer/{name}"])
        if self.loss_scale is not None:
            self.loss_scale.load(tuple(shared["loss_scale"].tolist()))
        spread_parts(self._engine, stage=self.config.zero_stage)

    def close(self) -> None:
        """Frees what the engine holds; the module keeps its weights at stages 0 to 2."""
        with _quiet():
            self._engine.destroy()
        # Else the next engine of this process would use groups of a process group that has ended.
        self._deepspeed.utils.groups._release_process_group_references(group=None)

    def _owned(self) -> list[torch.Tensor]:
        return owned_parts(self._engine, stage=self.config.zero_stage)

    def _set_moments(self, step: torch.Tensor) -> None:
        """Makes the optimizer's state where there is none yet, and sets its count of steps."""
        for part in self._owned():
            state = self._engine.optimizer.state[part]
            state["step"] = step.to(part.device, torch.float32, copy=True)
            for key in _MOMENTS:
                if key not in state:
                    state[key] = torch.zeros_like(part, requires_grad=False)

    def _shared(self) -> dict[str, torch.Tensor]:
        """The state that every rank has alike."""
        first = self._engine.optimizer.state[self._owned()[0]]
        module: torch.nn.Module = self._engine.module
        shared = {f"buffer/{name}": buffer.cpu() for name, buffer in module.named_buffers()}
        shared["optimizer_step"] = first["step"].cpu()
        if self.loss_scale is not None:
            shared["loss_scale"] = torch.tensor(self.loss_scale.state(), dtype=torch.float64)
        return shared

    def _without_scalers(self) -> None:
        """Takes DeepSpeed's loss scalers out: one for each rank and group, they may disagree."""
        self._engine.torch_autocast_z0_gradscaler = None
        if self.config.zero_stage > 0:
            self._engine.optimizer.torch_autocast_gradscaler = None

    def _prepare(self, images_seen: int) -> None:
        """Sets what changes from step to step."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self.config.lr_at(images_seen)
        if self.loss_scale is not None and self.config.zero_stage > 0:
            self._engine.optimizer.override_loss_scale(self.loss_scale.value)

    def _scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """At stage 0 nobody else scales the loss."""
        if self.loss_scale is None or self.config.zero_stage > 0:
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


def _part_name(rank: int) -> str:
    return f"{_PART}{rank:05d}.safetensors"


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
