"""What the world sees of a training: Prometheus, TensorBoard files, `live.json`, the bar's numbers.

It gets what the trainer knows anyway, and decides nothing. No call reads from a device: losses
and norms are numbers that the engine had to read to watch for divergence. What is per step costs
microseconds; the rest happens every ``log_images``, and files are written by a thread of rank 0.
"""

import logging
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from histodiff.models.peaks import device_name, peak_flops
from histodiff.pretraining.spec import PretrainSpec, Speed, TrainingProgress
from histodiff.storage import storage_path
from histodiff.telemetry import Background, LiveStatus, metrics, now_utc, write_live
from histodiff.telemetry.scalars import ScalarLog
from histodiff.training import MetricsRow, TimingRow, TrainingRecords, ValidationRow

TENSORBOARD = "tensorboard"
LIVE_SECONDS = 5.0
"""How old `live.json` may get while steps are done."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """What a speed is held against."""

    world_size: int
    training_flops: int
    """FLOPs of one image, forward and backward."""
    peak_flops: float | None
    """Of the device of one rank; None where it is not known."""
    mfu_note: str | None
    """Why MFU is not reported, and what to set; None where it is."""

    @classmethod
    def of(cls, spec: PretrainSpec, *, world_size: int, training_flops: int) -> "Machine":
        """The machine of a rank; the site's word on the peak counts before the table's."""
        name, precision = device_name(spec.device), spec.train.precision
        peak = spec.peak_flops or peak_flops(name, precision=precision)
        note = f"the peak of {name} in {precision} is not known; set `peak_flops` of the site"
        return cls(world_size, training_flops, peak, None if peak else note)

    def speed(self, images: int, timing: TimingRow) -> Speed:
        """Speed over ``images`` images of all ranks."""
        per_second = images / timing.seconds
        mfu = None
        if self.peak_flops is not None:
            mfu = per_second / self.world_size * self.training_flops / self.peak_flops
        return Speed(per_second, timing.data_wait_seconds / timing.seconds, mfu)


class Monitor:
    """Tells how the training of one rank goes; every rank has one, rank 0 writes the files.

    Args:
        spec: What is trained.
        rank: This rank.
        machine: What its speed is held against.
        last_checkpoint: Step of the last complete checkpoint, asked now and then.
    """

    def __init__(
        self,
        spec: PretrainSpec,
        *,
        rank: int,
        machine: Machine,
        last_checkpoint: Callable[[], int | None],
    ) -> None:
        self._spec, self._rank, self._machine = spec, rank, machine
        self._last_checkpoint = last_checkpoint
        self._path = storage_path(spec.artifact)
        self._background = Background(f"curves and live.json of {spec.run}")
        self._curves: ScalarLog | None = None
        self._loss: float | None = None
        self._speed: Speed | None = None
        self._row_step = self._step = 0
        self._written_at = -LIVE_SECONDS
        for counter in (
            metrics.TRAIN_RESUMES,
            metrics.TRAIN_ROLLBACKS,
            metrics.TRAIN_SKIPPED_STEPS,
        ):
            counter.labels(run=spec.run).inc(0)

    def begin(self, step: int, records: TrainingRecords) -> None:
        """Training goes on after ``step``, before which ``records`` were made."""
        self._row_step = self._step = step
        if self._rank:
            return
        if self._machine.mfu_note is not None:
            _log.info("MFU is not reported: %s", self._machine.mfu_note)
        batch = self._spec.train.batch
        self._curves = ScalarLog(self._path / TENSORBOARD, start=step * batch + 1)
        self._curves.extend((row.images_seen, _row_scalars(row)) for row in records.metrics)
        self._curves.extend((row.images_seen, _loss_scalar(row)) for row in records.validation)
        self._write_status()

    def step(self, step: int, loss: float) -> TrainingProgress:
        """A step is done; gives what the driver is to be told."""
        self._step, self._loss = step, loss
        if self._rank == 0 and time.monotonic() - self._written_at >= LIVE_SECONDS:
            self._write_status()
        return TrainingProgress(step * self._spec.train.batch, loss, self._speed)

    def row(self, row: MetricsRow, timing: TimingRow, *, loss_scale: float | None) -> None:
        """A row of metrics was made."""
        images = (row.step - self._row_step) * self._spec.train.batch
        self._row_step = row.step
        speed = self._speed = self._machine.speed(images, timing)
        memory = _peak_memory(self._spec.device)
        self._set_gauges(row, speed, loss_scale=loss_scale, memory=memory)
        optional = {"loss_scale": loss_scale, "mfu": speed.mfu}
        self._add(
            row.images_seen,
            {
                **_row_scalars(row),
                "train/images_per_second": speed.images_per_second,
                "train/data_wait_share": speed.data_wait_share,
                "train/peak_memory_bytes": float(memory),
                **{f"train/{key}": value for key, value in optional.items() if value is not None},
            },
        )

    def validation(self, rows: Sequence[ValidationRow]) -> None:
        """The validation loss was measured at every noise level."""
        for row in rows:
            gauge = metrics.TRAIN_VALIDATION_LOSS.labels(
                run=self._spec.run, sigma=f"{row.sigma:.4g}"
            )
            gauge.set(row.loss)
            self._add(row.images_seen, _loss_scalar(row))

    def close(self) -> None:
        """Writes what is still to be written."""
        if self._curves is not None:
            self._write_status()
            self._background.do(self._curves.close)
        self._background.close()

    def _set_gauges(
        self, row: MetricsRow, speed: Speed, *, loss_scale: float | None, memory: int
    ) -> None:
        values = {
            metrics.TRAIN_LOSS: row.loss,
            metrics.TRAIN_GRAD_NORM: row.grad_norm,
            metrics.TRAIN_LEARNING_RATE: row.lr,
            metrics.TRAIN_SEEN_IMAGES: row.images_seen,
            metrics.TRAIN_PEAK_MEMORY: memory,
            metrics.TRAIN_LOSS_SCALE: loss_scale,
            metrics.TRAIN_MFU: speed.mfu,
        }
        for gauge, value in values.items():
            if value is not None:
                gauge.labels(run=self._spec.run).set(value)

    def _add(self, images_seen: int, values: dict[str, float]) -> None:
        if self._curves is not None:
            self._background.do(partial(self._curves.add, values, images_seen=images_seen))

    def _write_status(self) -> None:
        """Has `live.json` written."""
        self._written_at = time.monotonic()
        train, speed = self._spec.train, self._speed
        status = LiveStatus(
            step=self._step,
            images_seen=self._step * train.batch,
            images_total=train.num_steps * train.batch,
            ranks=self._machine.world_size,
            checkpoint_step=self._last_checkpoint(),
            loss=self._loss,
            images_per_second=None if speed is None else speed.images_per_second,
            data_wait_share=None if speed is None else speed.data_wait_share,
            mfu=None if speed is None else speed.mfu,
            mfu_note=self._machine.mfu_note,
            updated=now_utc(),
        )
        self._background.do(partial(write_live, self._path, status))


def _row_scalars(row: MetricsRow) -> dict[str, float]:
    """Points of the curves that are functions of the config."""
    return {"train/loss": row.loss, "train/grad_norm": row.grad_norm, "train/learning_rate": row.lr}


def _loss_scalar(row: ValidationRow) -> dict[str, float]:
    return {f"validation/sigma_{row.sigma:.4g}": row.loss}


def _peak_memory(device: str) -> int:
    """Bytes; asks the allocator or the kernel, not the device."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
