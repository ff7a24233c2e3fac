"""The engine of a training: a module with its optimizer, and their state as a checkpoint holds it.

An engine does optimizer steps over a global batch. There are two, which differ in what does a step
and share all else: ``DeepSpeedEngine`` on the ranks of a gang, and ``LocalEngine`` in this process
for small models. The learning rate is set from outside as a function of ``images_seen``, so neither
keeps a schedule.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from histodiff.training import ranks
from histodiff.training.checkpoints import CheckpointRecord
from histodiff.training.loss_scale import LossScale
from histodiff.training.partitions import Fragment, Parts, read_parts, write_parts

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


class Engine(ABC):
    """A module under training, with its optimizer.

    Args:
        module: What is trained.
        zero_stage: What of its state is partitioned over the ranks; 0 nothing.
        loss_scale: Of fp16; None without.
    """

    def __init__(
        self, module: torch.nn.Module, *, zero_stage: int, loss_scale: LossScale | None = None
    ) -> None:
        self.zero_stage, self.loss_scale = zero_stage, loss_scale
        self._network = module

    @property
    @abstractmethod
    def module(self) -> torch.nn.Module:
        """The network to call for a forward pass; under ZeRO-3 every rank must call it alike."""

    @abstractmethod
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

    @abstractmethod
    def close(self) -> None:
        """Frees what the engine holds; the module keeps its weights but at ZeRO stage 3."""

    @property
    @abstractmethod
    def _optimizer(self) -> Any:
        """Has ``state`` by part, as torch's optimizers do."""

    @abstractmethod
    def _owned(self) -> list[torch.Tensor]:
        """What the optimizer of this rank updates: the keys of its state."""

    @abstractmethod
    def _fragments(self) -> list[Fragment]:
        """What the parts of this rank hold."""

    def _full(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        """The whole fp32 parameter."""
        return parameter.data

    def _spread(self) -> None:  # noqa: B027 - where nothing is partitioned, there is nothing to do
        """Brings the weights that are computed with up to date with the parts."""

    def masters(self) -> list[torch.Tensor]:
        """This rank's parts of the fp32 weights, as the optimizer updates them in place."""
        return [part.detach() for part in self._owned()]

    def states(self) -> dict[str, Parts]:
        """This rank's parts of the weights and of both moments, by name."""
        state = self._optimizer.state
        if any(part not in state for part in self._owned()):
            self._set_moments(torch.tensor(0.0))
        moments = {key: [state[part][key] for part in self._owned()] for key in _MOMENTS}
        return {"weight": self.masters(), **moments}

    def gathered(self, parts: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Full fp32 state from parts laid out as ``masters``, on every rank, on the CPU.

        All ranks must call it. The weights are as before afterwards.
        """
        state = {name: buffer.cpu() for name, buffer in _saved_buffers(self._network)}
        with _replaced(self.masters(), parts):
            for name, parameter in self._network.named_parameters():
                state[name] = self._full(parameter).detach().to("cpu", copy=True)
        return state

    def save(self, folder: Path, *, averages: Mapping[str, Parts]) -> None:
        """Writes this rank's part of the state into ``folder``.

        Args:
            folder: Where to write; names of files differ by rank.
            averages: Parts laid out as ``masters``, to be kept with them.
        """
        rank = ranks.rank()
        if rank == 0 or self.zero_stage > 0:
            states = {**self.states(), **averages}
            write_parts(folder / _part_name(rank), self._fragments(), states)
        if rank == 0:
            save_file(self._shared(), folder / _SHARED)

    def needed(self, record: CheckpointRecord) -> list[str]:
        """The files of a checkpoint that ``load`` reads on this rank."""
        if (record.world_size, record.zero_stage) == (ranks.world_size(), self.zero_stage):
            rank = ranks.rank() if self.zero_stage > 0 else 0
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
        read_parts(files, self._fragments(), {**self.states(), **averages})
        for name, buffer in _saved_buffers(self._network):
            buffer.copy_(shared[f"buffer/{name}"])
        if self.loss_scale is not None:
            self.loss_scale.load(tuple(shared["loss_scale"].tolist()))
        self._spread()

    def _set_moments(self, step: torch.Tensor) -> None:
        """Makes the optimizer's state where there is none yet, and sets its count of steps."""
        for part in self._owned():
            state = self._optimizer.state[part]
            state["step"] = step.to(part.device, torch.float32, copy=True)
            for key in _MOMENTS:
                if key not in state:
                    state[key] = torch.zeros_like(part, requires_grad=False)

    def _shared(self) -> dict[str, torch.Tensor]:
        """The state that every rank has alike."""
        first = self._optimizer.state[self._owned()[0]]
        shared = {f"buffer/{name}": buffer.cpu() for name, buffer in _saved_buffers(self._network)}
        shared["optimizer_step"] = first["step"].cpu()
        if self.loss_scale is not None:
            shared["loss_scale"] = torch.tensor(self.loss_scale.state(), dtype=torch.float64)
        return shared


def _saved_buffers(network: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and buffer of those that are state; tables that a config gives are not."""
    saved = network.state_dict().keys()
    return ((name, buffer) for name, buffer in network.named_buffers() if name in saved)


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
