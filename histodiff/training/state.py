"""What any training has: engine, averages, clock and records, and the checkpoints of all of them.

Denoisers, autoencoders, guides and classifiers differ in what a loss is and in what is done between
two steps. All else is here, so they resume, save and end in the same way.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from histodiff.errors import Preempted
from histodiff.runtime import Notice
from histodiff.storage import StoragePath
from histodiff.telemetry import metrics
from histodiff.training import ranks
from histodiff.training.checkpoint_writer import CheckpointWriter
from histodiff.training.checkpoints import CheckpointRecord, checkpoint_folder, opened_newest
from histodiff.training.config import OptimizationConfig
from histodiff.training.ema import WeightAverages
from histodiff.training.engine import Engine, MicroLoss, StepResult
from histodiff.training.records import TrainingRecords

CHECKPOINTS = "checkpoints"
"""Folder of an artifact in which its training keeps them."""
_RECORDS = "records.json"


class TrainingState:
    """The state of a training on one rank; every rank makes the same calls.

    Args:
        engine: Has what is trained, with the same weights on every rank.
        config: How to train.
        checkpoints: Folder of the checkpoints.
        run: Name of the run in metrics.
        notice: Asked before every step whether this rank has to go.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        config: OptimizationConfig,
        checkpoints: StoragePath,
        run: str,
        notice: Callable[[], Notice],
    ) -> None:
        self.engine, self.config, self.checkpoints = engine, config, checkpoints
        self.records = TrainingRecords()
        self.averages = WeightAverages(engine.masters(), config=config.ema, batch=config.batch)
        self._writer = CheckpointWriter(
            checkpoints, zero_stage=engine.zero_stage, kept=config.kept_steps
        )
        self.step = 0
        self._saved_step: int | None = None
        self._run, self._notice, self._noticed = run, notice, Notice.NONE

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
        if self._saved_step is None:
            return None
        return str(checkpoint_folder(self.checkpoints, self._saved_step))

    @property
    def complete_step(self) -> int | None:
        """Steps of the newest checkpoint that is complete, if there is one."""
        return self._writer.complete_step

    def is_due(self, images: int | None) -> bool:
        """Whether the step that was just done completes another ``images`` images, or all."""
        return images is not None and self.config.is_due(self.step, images)

    def resume(self) -> None:
        """Takes up the newest complete checkpoint, if there is one."""
        with opened_newest(self.checkpoints, needed=self._needed) as opened:
            if opened is None:
                return
            self.engine.load(opened.folder, record=opened.record, averages=self.averages.states())
            self.records = TrainingRecords.from_json((opened.folder / _RECORDS).read_bytes())
        self.step = self._saved_step = self._writer.complete_step = opened.record.step
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
        self._noticed = self._notice()
        result = self.engine.step(losses, images_seen=seen, notice=self._noticed is not Notice.NONE)
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
        self._writer.save(self._write_part, step=self.step)
        self._saved_step = self.step
        seconds = time.perf_counter() - started
        metrics.TRAIN_CHECKPOINT_SECONDS.labels(run=self._run).observe(seconds)

    def wait(self) -> None:
        """Returns when the last checkpoint is complete, on every rank."""
        self._writer.wait()

    def heed_notice(self) -> None:
        """Makes a checkpoint because some rank has to go.

        Raises:
            Preempted: It must go at once, and the checkpoint is complete.
        """
        notices = ranks.all_gather(int(self._noticed))
        if self._saved_step != self.step:
            self.save()
        if max(notices) == Notice.LEAVE and not self.is_at_end:
            self.wait()
            raise Preempted(self.images_seen)

    def close(self) -> None:
        """Ends uploads and frees the engine."""
        self._writer.close()
        self.engine.close()

    def _write_part(self, folder: Path) -> None:
        self.engine.save(folder, averages=self.averages.states())
        if ranks.rank() == 0:
            (folder / _RECORDS).write_bytes(self.records.to_json())

    def _needed(self, record: CheckpointRecord) -> list[str]:
        return [*self.engine.needed(record), _RECORDS]
