"""What one rank of any training has: engine, averages, clock and records, and their checkpoints.

Pre-training and the training of an autoencoder differ in what a loss is and in what is told of it.
All else is here, so both resume, save and end in the same way.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.distributed

from histodiff.errors import Preempted
from histodiff.runtime import Notice
from histodiff.storage import StoragePath
from histodiff.telemetry import metrics
from histodiff.training import (
    CheckpointRecord,
    CheckpointWriter,
    Engine,
    MicroLoss,
    StepResult,
    TrainConfig,
    WeightAverages,
    checkpoint_folder,
    opened_newest,
)

CHECKPOINTS = "checkpoints"
_RECORDS = "records.json"


class Records(Protocol):
    """Rows of metrics so far."""

    def to_json(self) -> bytes:
        """Everything, for a checkpoint."""


RecordsT = TypeVar("RecordsT", bound=Records)
BatchT = TypeVar("BatchT", bound=tuple[torch.Tensor, ...])


def micro_batches(batch: BatchT, size: int) -> Iterator[BatchT]:
    """A batch, a named tuple of tensors, cut into batches of ``size``."""
    for parts in zip(*(torch.split(tensor, size) for tensor in batch), strict=True):
        yield type(batch)(*parts)


class TrainingState(Generic[RecordsT]):
    """The state of a training on one rank; every rank makes the same calls.

    Args:
        module: What is trained, on the device, with the same weights on every rank.
        config: How to train.
        device: ``cpu`` or ``cuda``.
        artifact: Folder of the artifact; checkpoints lie in it.
        run: Name of the run in metrics.
        records: Empty ones.
        notice: Asked before every step whether this rank has to go.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        config: TrainConfig,
        device: str,
        artifact: StoragePath,
        run: str,
        records: RecordsT,
        notice: Callable[[], Notice],
    ) -> None:
        self.config, self.records = config, records
        self.engine = Engine(module, config=config, device=device)
        self.averages = WeightAverages(self.engine.masters(), config=config.ema, batch=config.batch)
        self.checkpoints = artifact / CHECKPOINTS
        self.writer = CheckpointWriter(
            self.checkpoints, zero_stage=config.zero_stage, kept=config.kept_steps
        )
        self.step = 0
        self.saved_step: int | None = None
        self._run, self._notice, self._told = run, notice, Notice.NONE

    @property
    def images_seen(self) -> int:
        """The clock."""
        return self.step * self.config.batch

    @property
    def is_at_end(self) -> bool:
        """Whether every step is done."""
        return self.step >= self.config.num_steps

    @property
    def last_checkpoint(self) -> str | None:
        """Where the newest checkpoint lies, if there is one."""
        if self.saved_step is None:
            return None
        return str(checkpoint_folder(self.checkpoints, self.saved_step))

    @property
    def complete_step(self) -> int | None:
        """Steps of the newest checkpoint that is complete, if there is one."""
        return self.writer.complete_step

    def is_due(self, images: int | None) -> bool:
        """Whether the step that was just done completes another ``images`` images, or all."""
        return images is not None and self.config.is_due(self.step, images)

    def resume(self, records_of: Callable[[bytes], RecordsT]) -> None:
        """Takes up the newest complete checkpoint, if there is one.

        Args:
            records_of: Reads what ``Records.to_json`` wrote.
        """
        with opened_newest(self.checkpoints, needed=self._needed) as opened:
            if opened is None:
                return
            self.engine.load(opened.folder, record=opened.record, averages=self.averages.states())
            self.records = records_of((opened.folder / _RECORDS).read_bytes())
        self.step = self.saved_step = self.writer.complete_step = opened.record.step
        metrics.TRAIN_RESUMES.labels(run=self._run).inc()

    def advance(
        self, losses: Sequence[MicroLoss], *, require_sound: Callable[[StepResult], None]
    ) -> StepResult:
        """Does one optimizer step and moves the averages and the clock.

        Args:
            losses: This rank's micro-batches.
            require_sound: Raises where the step went wrong; nothing has moved by then but, where
                the norm of the gradient is not finite, the weights.
        """
        seen = self.images_seen + self.config.batch
        self._told = self._notice()
        result = self.engine.step(losses, images_seen=seen, notice=self._told is not Notice.NONE)
        require_sound(result)
        self.step += 1
        self.averages.update(self.engine.masters(), images_seen=seen)
        return result

    def average(self, number: int) -> dict[str, torch.Tensor]:
        """Full fp32 state of an average, on every rank, on the CPU; all ranks must call it."""
        return self.engine.gathered(self.averages.parts[number])

    def save(self) -> None:
        """Writes a checkpoint."""
        started = time.perf_counter()
        self.writer.save(self._write_part, step=self.step)
        self.saved_step = self.step
        seconds = time.perf_counter() - started
        metrics.TRAIN_CHECKPOINT_SECONDS.labels(run=self._run).observe(seconds)

    def heed(self) -> None:
        """Makes a checkpoint because some rank has to go.

        Raises:
            Preempted: It must go at once, and the checkpoint is complete.
        """
        notices: list[Any] = [None] * self.engine.world_size
        torch.distributed.all_gather_object(notices, self._told)
        if self.saved_step != self.step:
            self.save()
        if max(notices) is Notice.LEAVE and not self.is_at_end:
            self.writer.wait()
            raise Preempted(self.images_seen)

    def close(self) -> None:
        """Ends uploads and frees the engine."""
        self.writer.close()
        self.engine.close()

    def _write_part(self, folder: Path) -> None:
        self.engine.save(folder, averages=self.averages.states())
        if torch.distributed.get_rank() == 0:
            (folder / _RECORDS).write_bytes(self.records.to_json())

    def _needed(self, record: CheckpointRecord) -> list[str]:
        return [*self.engine.needed(record), _RECORDS]
