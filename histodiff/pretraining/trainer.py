"""One rank's part of pre-training: batches in, optimizer steps, metrics, checkpoints, snapshots.

Everything that decides results is a function of (config, step), or lies in the checkpoint. Legend:
B batch, C channels, H height, W width.
"""

import logging
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pyarrow as pa
import torch
import torch.distributed

from histodiff.data_prep.slides.splits import assert_disjoint
from histodiff.errors import Preempted, TrainingDiverged
from histodiff.latents import LatentMixture, LatentStore
from histodiff.models.cost import flops_per_image
from histodiff.models.denoiser import SnapshotInfo, save_snapshot
from histodiff.pretraining.clock import StepClock
from histodiff.pretraining.denoising import micro_loss
from histodiff.pretraining.divergence import (
    RolledBack,
    batch_of,
    loss_limit,
    median_steps,
    passed_over,
    read_rollbacks,
    rollback_of,
    write_rollbacks,
)
from histodiff.pretraining.draws import CleanAndNoise
from histodiff.pretraining.feed import TrainingFeed
from histodiff.pretraining.first import chosen_attention, first_denoiser
from histodiff.pretraining.monitor import Machine, Monitor
from histodiff.pretraining.previews import Previews
from histodiff.pretraining.records import MetricsRow, RunRecords, ValidationRow
from histodiff.pretraining.spec import PretrainSpec, TrainingNews
from histodiff.pretraining.validation import Validation
from histodiff.runtime import Notice, derived_seed
from histodiff.storage import StoragePath, storage_path
from histodiff.telemetry import metrics
from histodiff.training import (
    CheckpointRecord,
    CheckpointWriter,
    Engine,
    StepResult,
    WeightAverages,
    checkpoint_folder,
    discard_checkpoints,
    opened_newest,
)

CHECKPOINTS, SNAPSHOTS, LAST = "checkpoints", "snapshots", "last"
_RECORDS = "records.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """What is trained on."""

    stores: tuple[LatentStore, ...]
    mixture: LatentMixture

    @classmethod
    def open(cls, spec: PretrainSpec) -> "TrainingData":
        """The mixture that ``spec`` describes; every rank opens it for itself."""
        stores = tuple(LatentStore.open(storage_path(share.url)) for share in spec.stores)
        # Over the whole mixture: one store must not train on a patient that another validates on.
        columns = ["slide_id", "patient_id", "split"]
        assert_disjoint(pa.concat_tables([store.distinct_rows(columns) for store in stores]))
        weights = [share.weight for share in spec.stores]
        mixture = LatentMixture(
            stores,
            weights=weights,
            split="train",
            seed=spec.seed,
            batch=spec.train.batch,
            num_lanes=spec.num_lanes,
            cache=spec.cache,
        )
        return cls(stores, mixture)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)``."""
        _, height, width = self.stores[0].moment_shape
        return (self.stores[0].latent_channels, height, width)


class DoneStep(NamedTuple):
    """A step that is done, with all that belongs to it."""

    loss: float
    """Mean over the global batch."""
    waited_seconds: float
    """How long this rank waited for its batch."""


class Trainer:
    """Trains on one rank; every rank makes the same calls.

    Args:
        spec: What to train.
        rank: This rank.
        world_size: Number of ranks.
        report: Told after every step where the training is.
        notice: Asked before every step whether this rank has to go.
    """

    def __init__(
        self,
        spec: PretrainSpec,
        *,
        rank: int,
        world_size: int,
        report: Callable[[TrainingNews], None],
        notice: Callable[[], Notice],
    ) -> None:
        self.spec, self.rank, self.world_size = spec, rank, world_size
        self._report, self._notice, self._told = report, notice, Notice.NONE
        self.path = storage_path(spec.artifact)
        self.data = TrainingData.open(spec)
        self.denoiser = first_denoiser(spec, self.data.latent_shape)
        self.flops = flops_per_image(self.denoiser)
        self.num_parameters = sum(p.numel() for p in self.denoiser.parameters())
        self.preconditioning = self.denoiser.preconditioning
        self.micro_batch = spec.train.micro_batch_of(world_size)
        self.attention = chosen_attention(self.denoiser, spec, batch=self.micro_batch)
        self.validation = self._validation()
        self.engine = Engine(self.denoiser, config=spec.train, device=spec.device)
        self.averages = WeightAverages(
            self.engine.masters(), config=spec.train.ema, batch=spec.train.batch
        )
        self.writer = CheckpointWriter(
            self._checkpoints, zero_stage=spec.train.zero_stage, kept=spec.train.kept_steps
        )
        machine = Machine.of(spec, world_size=world_size, training_flops=self.flops.training)
        self.monitor = Monitor(
            spec, rank=rank, machine=machine, last_checkpoint=lambda: self.writer.complete_step
        )
        self.previews = Previews(spec, self.data.latent_shape)
        self.rollbacks = _from_first_rank(lambda: read_rollbacks(self._checkpoints), rank=rank)
        self.records = RunRecords()
        self.step = 0
        self.saved_step: int | None = None

    @property
    def images_seen(self) -> int:
        """The clock."""
        return self.step * self.spec.train.batch

    def resume(self) -> None:
        """Takes up the newest complete checkpoint, if there is one."""
        with opened_newest(self._checkpoints, needed=self._needed) as opened:
            if opened is None:
                return
            self.engine.load(opened.folder, record=opened.record, averages=self.averages.states())
            self.records = RunRecords.from_json((opened.folder / _RECORDS).read_bytes())
        self.step = self.saved_step = self.writer.complete_step = opened.record.step
        metrics.TRAIN_RESUMES.labels(run=self.spec.run).inc()

    def run(self) -> None:
        """Trains to the end; raises what ``steps`` does."""
        for _ in self.steps():
            pass

    def steps(self) -> Generator[DoneStep, None, None]:
        """Trains step by step to the end; writes checkpoints and snapshots on the way.

        Closing it ends the training where it is.

        Raises:
            TrainingDiverged: The loss leapt, or it or the gradient became non-finite.
            RolledBack: It did, and the next attempt is to pass over some images.
            Preempted: Notice was given, and a checkpoint is complete.
        """
        self.monitor.begin(self.step, self.records)
        feed = TrainingFeed(
            self.data.mixture,
            whitening=self.spec.whitening,
            view=self.spec.view,
            symmetries=self.spec.symmetries,
            seed=self.spec.seed,
            rank=self.rank,
            world_size=self.world_size,
            step=self.step,
            batch_of=partial(batch_of, passed_over=passed_over(self.rollbacks)),
        )
        clock = StepClock(self.spec.run, rank=self.rank)
        try:
            while self.step < self.spec.train.num_steps:
                before = feed.waited_seconds
                result = self._advance(feed.next())
                clock.tick(self.spec.train.batch, feed.waited_seconds)
                self._after_step(result, clock)
                if result.noticed:
                    self._heed()
                yield DoneStep(result.loss, feed.waited_seconds - before)
        finally:
            feed.close()

    def finish(self) -> None:
        """Writes what is published: the last snapshot and the tables."""
        self._snapshot(LAST)
        if self.rank == 0:
            self.records.write_tables(self.path, self.rollbacks)
        self.writer.wait()

    def close(self) -> None:
        """Ends uploads and frees the engine."""
        self.writer.close()
        self.engine.close()
        self.monitor.close()

    @property
    def _checkpoints(self) -> StoragePath:
        return self.path / CHECKPOINTS

    def _validation(self) -> Validation | None:
        if self.spec.validation is None:
            return None
        return Validation(
            self.spec.validation,
            stores=self.data.stores,
            whitening=self.spec.whitening,
            view=self.spec.view,
            preconditioning=self.preconditioning,
            seed=self.spec.seed,
            batch=self.micro_batch,
            device=self.spec.device,
        )

    def _advance(self, batch: CleanAndNoise) -> StepResult:
        """One optimizer step on this rank's share of a batch."""
        # Dropout is the one draw that depends on the rank; presets have none.
        torch.manual_seed(derived_seed(self.spec.seed, "dropout", self.step, self.rank))
        parts = zip(*(torch.split(tensor, self.micro_batch) for tensor in batch), strict=True)
        losses = [
            partial(
                micro_loss,
                part=CleanAndNoise(*(tensor.to(self.spec.device) for tensor in part)),
                preconditioning=self.preconditioning,
                weighting=self.spec.denoiser.objective.weighting,
            )
            for part in parts
        ]
        seen = self.images_seen + self.spec.train.batch
        self._told = self._notice()
        result = self.engine.step(losses, images_seen=seen, notice=self._told is not Notice.NONE)
        self._require_sound(result)
        self.step += 1
        self.averages.update(self.engine.masters(), images_seen=seen)
        return result

    def _require_sound(self, result: StepResult) -> None:
        """Raises what ``run`` raises where the step went wrong."""
        train = self.spec.train
        limit = loss_limit(self.records.recent, train.on_divergence, batch=train.batch)
        finite = math.isfinite(result.loss) and (math.isfinite(result.grad_norm) or result.skipped)
        if finite and result.loss <= limit:
            return
        loss = result.loss if finite else math.nan
        used_up = len(self.rollbacks) >= train.on_divergence.max_rollbacks
        if train.on_divergence.action == "stop" or used_up:
            saved = self.saved_step
            last = None if saved is None else str(checkpoint_folder(self._checkpoints, saved))
            raise TrainingDiverged(self.step, last)
        self._roll_back(loss, limit)

    def _roll_back(self, loss: float, limit: float) -> NoReturn:
        """Has the next attempt pass over what made the loss leap."""
        rollback = rollback_of(
            self.step, loss=loss, limit=limit, train=self.spec.train, rollbacks=self.rollbacks
        )
        self.writer.wait()
        discard_checkpoints(self._checkpoints, after=rollback.back_to_step)
        if self.rank == 0:
            write_rollbacks(self._checkpoints, [*self.rollbacks, rollback])
        torch.distributed.barrier()
        _log.warning(
            "loss %s at step %d (limit %s): back to step %d, batches %d to %d are passed over",
            loss, rollback.step, limit, rollback.back_to_step,
            rollback.first_batch, rollback.last_batch,
        )  # fmt: skip
        metrics.TRAIN_ROLLBACKS.labels(run=self.spec.run).inc()
        raise RolledBack

    def _heed(self) -> None:
        """Makes a checkpoint because some rank has to go; ends if it must go at once."""
        notices: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(notices, self._told)
        if self.saved_step != self.step:
            self._save()
        if max(notices) is Notice.LEAVE and self.step < self.spec.train.num_steps:
            self.writer.wait()
            raise Preempted(self.images_seen)

    def _after_step(self, result: StepResult, clock: StepClock) -> None:
        train, due = self.spec.train, self.spec.train.is_due
        self.records.add(
            result.loss,
            skipped=result.skipped,
            num_recent=median_steps(train.on_divergence, batch=train.batch),
        )
        if result.skipped:
            self._tell_skipped()
        if due(self.step, train.log_images):
            self._record(result, clock)
        if self.validation and due(self.step, self.validation.config.every_images):
            self._validate(self.validation)
        if self.spec.snapshot_images and due(self.step, self.spec.snapshot_images):
            self._snapshot(f"images-{self.images_seen:012d}")
        if self.spec.preview_images and due(self.step, self.spec.preview_images):
            self._preview()
        if due(self.step, train.checkpoint_images):
            self._save()
        self._report(self.monitor.step(self.step, result.loss))

    def _record(self, result: StepResult, clock: StepClock) -> None:
        pending = self.records.pending
        row = MetricsRow(
            step=self.step,
            images_seen=self.images_seen,
            loss=math.fsum(pending) / len(pending),
            grad_norm=result.grad_norm,
            lr=self.spec.train.lr_at(self.images_seen),
            skipped_steps=self.records.skipped,
        )
        self.records.skipped = 0
        pending.clear()
        self.records.metrics.append(row)
        self.records.timing.append(clock.lap(self.step))
        scale = self.engine.loss_scale
        self.monitor.row(
            row, self.records.timing[-1], loss_scale=None if scale is None else scale.value
        )

    def _tell_skipped(self) -> None:
        metrics.TRAIN_SKIPPED_STEPS.labels(run=self.spec.run).inc()
        scale = self.engine.loss_scale
        if self.rank == 0 and scale is not None:
            _log.warning(
                "step %d overflowed fp16 and changed nothing; the loss is now scaled by %g",
                self.step, scale.value,
            )  # fmt: skip

    def _validate(self, validation: Validation) -> None:
        rows = [
            ValidationRow(self.step, self.images_seen, bin.sigma, bin.loss, bin.images)
            for bin in validation.losses(self.engine.module)
        ]
        self.records.validation += rows
        self.monitor.validation(rows)

    def _preview(self) -> None:
        """Draws a sample grid from the first average."""
        state = self.engine.gathered(self.averages.parts[0])
        if self.rank == 0:
            self.previews.write(state, images_seen=self.images_seen)

    def _save(self) -> None:
        started = time.perf_counter()
        self.writer.save(self._write_part, step=self.step)
        self.saved_step = self.step
        seconds = time.perf_counter() - started
        metrics.TRAIN_CHECKPOINT_SECONDS.labels(run=self.spec.run).observe(seconds)

    def _write_part(self, folder: Path) -> None:
        self.engine.save(folder, averages=self.averages.states())
        if self.rank == 0:
            (folder / _RECORDS).write_bytes(self.records.to_json())

    def _needed(self, record: CheckpointRecord) -> list[str]:
        return [*self.engine.needed(record), _RECORDS]

    def _snapshot(self, name: str) -> None:
        """Writes the averages: the first under ``name``, the others with their half-life too."""
        for number, half_life in enumerate(self.spec.train.ema.half_lives_images):
            state = self.engine.gathered(self.averages.parts[number])
            if self.rank == 0:
                full_name = f"{name}-{half_life:.0f}" if number else name
                folder = self.path / SNAPSHOTS / full_name
                save_snapshot(folder, self.denoiser, self._snapshot_info(), state=state)

    def _snapshot_info(self) -> SnapshotInfo:
        store = self.data.stores[0]
        return SnapshotInfo(
            whitening_mean=self.spec.whitening.mean,
            whitening_std=self.spec.whitening.std,
            view=self.spec.view,
            encoder_sha256=store.encoder_sha256,
            patch_px=store.patch_px,
            mpp=store.mpp,
            images_seen=self.images_seen,
        )


def _from_first_rank(read: Callable[[], Any], *, rank: int) -> Any:
    """What rank 0 reads, on every rank."""
    found = [read() if rank == 0 else None]
    torch.distributed.broadcast_object_list(found)
    return found[0]
