"""One rank's part of pre-training: batches in, optimizer steps, metrics, checkpoints, snapshots.

Everything that decides results is a function of (config, step), or lies in the checkpoint. Legend:
B batch, C channels, H height, W width.
"""

import logging
from collections.abc import Callable, Generator
from functools import partial
from typing import NamedTuple

import torch

from histodiff.models.cost import flops_per_image
from histodiff.models.denoiser import LAST, SNAPSHOTS, SnapshotInfo, save_snapshot
from histodiff.pretraining.dataset import TrainingDataset
from histodiff.pretraining.initialisation import chosen_attention, initial_denoiser
from histodiff.pretraining.loader import BatchLoader
from histodiff.pretraining.loss import micro_loss
from histodiff.pretraining.monitor import Machine, Monitor
from histodiff.pretraining.posterior import CleanAndNoise
from histodiff.pretraining.previews import Previews
from histodiff.pretraining.records import RunRecords, ValidationRow
from histodiff.pretraining.spec import PretrainSpec, TrainingProgress
from histodiff.pretraining.validation import Validation
from histodiff.runtime import Notice, derived_seed
from histodiff.storage import storage_path
from histodiff.telemetry import metrics
from histodiff.training import StepResult, seed_torch
from histodiff.training.divergence_monitor import DivergenceMonitor
from histodiff.training.state import TrainingState, micro_batches
from histodiff.training.timing import StepTimer

_log = logging.getLogger(__name__)


class CompletedStep(NamedTuple):
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
        report: Callable[[TrainingProgress], None],
        notice: Callable[[], Notice],
    ) -> None:
        self.spec, self.rank, self.world_size = spec, rank, world_size
        self._report = report
        self.path = storage_path(spec.artifact)
        self.data = TrainingDataset.open(spec)
        self.denoiser = initial_denoiser(spec, self.data.latent_shape)
        self.flops = flops_per_image(self.denoiser)
        self.num_parameters = sum(p.numel() for p in self.denoiser.parameters())
        self.preconditioning = self.denoiser.preconditioning
        self.micro_batch = spec.train.micro_batch_of(world_size)
        self.attention = chosen_attention(self.denoiser, spec, batch=self.micro_batch)
        self.validation = self._validation()
        self.state = TrainingState(
            self.denoiser,
            config=spec.train,
            device=spec.device,
            artifact=self.path,
            run=spec.run,
            records=RunRecords(),
            notice=notice,
        )
        self.watch = DivergenceMonitor(self.state, run=spec.run)
        machine = Machine.of(spec, world_size=world_size, training_flops=self.flops.training)
        self.monitor = Monitor(
            spec, rank=rank, machine=machine, last_checkpoint=lambda: self.state.complete_step
        )
        self.previews = Previews(spec, self.data.latent_shape)

    def resume(self) -> None:
        """Takes up the newest complete checkpoint, if there is one."""
        self.state.resume(RunRecords.from_json)

    def run(self) -> None:
        """Trains to the end; raises what ``steps`` does."""
        for _ in self.steps():
            pass

    def steps(self) -> Generator[CompletedStep, None, None]:
        """Trains step by step to the end; writes checkpoints and snapshots on the way.

        Closing it ends the training where it is.

        Raises:
            TrainingDiverged: The loss leapt, or it or the gradient became non-finite.
            RolledBack: It did, and the next attempt is to pass over some images.
            Preempted: Notice was given, and a checkpoint is complete.
        """
        self.monitor.begin(self.state.step, self.state.records)
        feed = BatchLoader(
            self.data.mixture,
            whitening=self.spec.whitening,
            view=self.spec.view,
            symmetries=self.spec.symmetries,
            seed=self.spec.seed,
            rank=self.rank,
            world_size=self.world_size,
            step=self.state.step,
            batch_of=self.watch.batch_of,
        )
        clock = StepTimer(self.spec.run, rank=self.rank)
        try:
            while not self.state.is_at_end:
                before = feed.waited_seconds
                result = self._advance(feed.next())
                clock.tick(self.spec.train.batch, feed.waited_seconds)
                self._after_step(result, clock)
                if result.noticed:
                    self.state.heed()
                yield CompletedStep(result.loss, feed.waited_seconds - before)
        finally:
            feed.close()

    def finish(self) -> None:
        """Writes what is published: the last snapshot and the tables."""
        self._snapshot(LAST)
        if self.rank == 0:
            self.state.records.write_tables(self.path, self.watch.rollbacks)
        self.state.writer.wait()

    def close(self) -> None:
        """Ends uploads and frees the engine."""
        self.state.close()
        self.monitor.close()

    @property
    def _loss_scale(self) -> float | None:
        """Of fp16."""
        scale = self.state.engine.loss_scale
        return None if scale is None else scale.value

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
        seed_torch(
            derived_seed(self.spec.seed, "dropout", self.state.step, self.rank),
            device=torch.device(self.spec.device),
        )
        losses = [
            partial(
                micro_loss,
                part=CleanAndNoise(*(tensor.to(self.spec.device) for tensor in part)),
                preconditioning=self.preconditioning,
                weighting=self.spec.denoiser.objective.weighting,
            )
            for part in micro_batches(batch, self.micro_batch)
        ]
        return self.state.advance(losses, require_sound=self.watch.require_sound)

    def _after_step(self, result: StepResult, clock: StepTimer) -> None:
        state, spec = self.state, self.spec
        state.records.add(result.loss, skipped=result.skipped, num_recent=self.watch.num_recent)
        if result.skipped:
            self._tell_skipped()
        if state.is_due(spec.train.log_images):
            self._record(result, clock)
        if self.validation and state.is_due(self.validation.config.every_images):
            self._validate(self.validation)
        if state.is_due(spec.snapshot_images):
            self._snapshot(f"images-{state.images_seen:012d}")
        if state.is_due(spec.preview_images):
            self._preview()
        if state.is_due(spec.train.checkpoint_images):
            state.save()
        self._report(self.monitor.step(state.step, result.loss))

    def _record(self, result: StepResult, clock: StepTimer) -> None:
        state = self.state
        row = state.records.end_row(
            step=state.step,
            images_seen=state.images_seen,
            grad_norm=result.grad_norm,
            lr=self.spec.train.lr_at(state.images_seen),
        )
        timing = clock.lap(state.step)
        state.records.timing.append(timing)
        self.monitor.row(row, timing, loss_scale=self._loss_scale)

    def _tell_skipped(self) -> None:
        metrics.TRAIN_SKIPPED_STEPS.labels(run=self.spec.run).inc()
        if self.rank == 0:
            _log.warning(
                "step %d overflowed fp16 and changed nothing; the loss is now scaled by %g",
                self.state.step, self._loss_scale,
            )  # fmt: skip

    def _validate(self, validation: Validation) -> None:
        rows = [
            ValidationRow(self.state.step, self.state.images_seen, bin.sigma, bin.loss, bin.images)
            for bin in validation.losses(self.state.engine.module)
        ]
        self.state.records.validation += rows
        self.monitor.validation(rows)

    def _preview(self) -> None:
        """Draws a sample grid from the first average."""
        weights = self.state.average(0)
        if self.rank == 0:
            self.previews.write(weights, images_seen=self.state.images_seen)

    def _snapshot(self, name: str) -> None:
        """Writes the averages: the first under ``name``, the others with their half-life too."""
        for number, half_life in enumerate(self.spec.train.ema.half_lives_images):
            weights = self.state.average(number)
            if self.rank == 0:
                full_name = f"{name}-{half_life:.0f}" if number else name
                folder = self.path / SNAPSHOTS / full_name
                save_snapshot(folder, self.denoiser, self._snapshot_info(), state=weights)

    def _snapshot_info(self) -> SnapshotInfo:
        store = self.data.stores[0]
        return SnapshotInfo(
            whitening_mean=self.spec.whitening.mean,
            whitening_std=self.spec.whitening.std,
            view=self.spec.view,
            encoder_sha256=store.encoder_sha256,
            patch_px=store.patch_px,
            mpp=store.mpp,
            images_seen=self.state.images_seen,
        )
