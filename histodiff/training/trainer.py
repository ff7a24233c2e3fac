"""The loop of every training here: batches in, optimizer steps, rows of metrics, checkpoints.

``Trainer`` is the loop; what is trained hands in what differs: where batches come from, what a loss
is, and what is done after a step (validation, snapshots). Everything that decides results is a
function of (config, step), or lies in the checkpoint.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Generic, NamedTuple, TypeVar

import torch

from histodiff.errors import TrainingDiverged
from histodiff.training.engine import MicroLoss, StepResult
from histodiff.training.records import MetricsRow, TimingRow
from histodiff.training.state import TrainingState
from histodiff.training.timing import StepTimer

BatchT = TypeVar("BatchT")
TensorsT = TypeVar("TensorsT", bound=tuple[torch.Tensor, ...])


def micro_batches(batch: TensorsT, size: int) -> Iterator[TensorsT]:
    """A batch, a named tuple of tensors, cut into batches of ``size``."""
    for parts in zip(*(torch.split(tensor, size) for tensor in batch), strict=True):
        yield type(batch)(*parts)


class CompletedStep(NamedTuple):
    """A step that is done, with all that belongs to it."""

    loss: float
    """Mean over the global batch."""
    waited_seconds: float
    """How long this rank waited for its batch."""


class Trainer(ABC, Generic[BatchT]):
    """Trains on one rank; every rank makes the same calls.

    Args:
        state: What is trained.
        run: Name of the run in metrics.
        num_recent: How many of the last losses ``require_sound`` looks at.
    """

    def __init__(self, state: TrainingState, *, run: str, num_recent: int = 0) -> None:
        self.state = state
        self._run, self._num_recent = run, num_recent

    @abstractmethod
    def batches(self) -> AbstractContextManager[Iterator[BatchT]]:
        """This rank's batches, from the step that the state is at to the last one."""

    @abstractmethod
    def losses(self, batch: BatchT) -> Sequence[MicroLoss]:
        """The micro-batches of a batch, as the engine takes them."""

    def terms(self) -> Mapping[str, float]:
        """Terms of the loss of the step just done, by name: means over the global batch."""
        return {}

    def require_sound(self, result: StepResult) -> None:
        """Ends the training where a step went wrong.

        Raises:
            TrainingDiverged: The loss or the gradient is not finite.
        """
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            raise TrainingDiverged(self.state.step, self.state.last_checkpoint)

    def after_row(self, row: MetricsRow, timing: TimingRow) -> None:
        """Is called when a row of metrics has been recorded."""

    def after_step(self, result: StepResult) -> None:
        """Is called after each step, before a checkpoint of it."""

    def report(self, result: StepResult) -> None:
        """Is called when all that belongs to a step is done."""

    def resume(self) -> None:
        """Takes up the newest complete checkpoint, if there is one."""
        self.state.resume()

    def run(self) -> None:
        """Trains to the end; raises what ``steps`` does."""
        for _ in self.steps():
            pass

    def steps(self) -> Generator[CompletedStep, None, None]:
        """Trains step by step to the end; writes checkpoints on the way.

        Closing it ends the training where it is.

        Raises:
            TrainingDiverged: A step went wrong.
            Preempted: Notice was given, and a checkpoint is complete.
        """
        timer = StepTimer(self._run)
        with self.batches() as batches:
            while not self.state.is_at_end:
                asked = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - asked
                result = self.state.advance(self.losses(batch), require_sound=self.require_sound)
                timer.tick(self.state.config.batch, waited_seconds=waited)
                self._complete(result, timer)
                yield CompletedStep(result.loss, waited)

    def close(self) -> None:
        """Ends uploads and frees the engine."""
        self.state.close()

    def _complete(self, result: StepResult, timer: StepTimer) -> None:
        """All that belongs to a step besides the optimizer's part."""
        state, config = self.state, self.state.config
        state.records.add(
            result.loss,
            terms=self.terms(),
            skipped=result.skipped,
            num_recent=self._num_recent,
        )
        if state.is_due(config.log_images):
            self._record(result, timer)
        self.after_step(result)
        if state.is_due(config.checkpoint_images):
            state.save()
        self.report(result)
        if result.noticed:
            state.heed_notice()

    def _record(self, result: StepResult, timer: StepTimer) -> None:
        state = self.state
        row = state.records.end_row(
            step=state.step,
            images_seen=state.images_seen,
            grad_norm=result.grad_norm,
            lr=state.config.lr_at(state.images_seen),
        )
        timing = timer.lap(state.step)
        state.records.timing.append(timing)
        self.after_row(row, timing)
