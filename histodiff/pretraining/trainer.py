"""One rank's part of pre-training: latents in, and what belongs to a denoiser after a step.

The loop is that of every training (``training.Trainer``); here are its batches, its loss, the
validation by noise level, snapshots and previews. Legend: B batch, C channels, H height, W width.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch

from histodiff.latents import scaling_rule
from histodiff.models.cost import flops_per_image
from histodiff.models.denoiser import LAST, SNAPSHOTS, SnapshotInfo, save_snapshot
from histodiff.pretraining.alignment import Alignment
from histodiff.pretraining.dataset import TrainingDataset
from histodiff.pretraining.initialisation import chosen_attention, initial_denoiser
from histodiff.pretraining.loader import training_batches
from histodiff.pretraining.loss import Estimates, micro_loss
from histodiff.pretraining.monitor import Machine, Monitor
from histodiff.pretraining.posterior import CleanAndNoise
from histodiff.pretraining.previews import Previews
from histodiff.pretraining.spec import PretrainSpec, TrainingProgress
from histodiff.pretraining.tables import write_tables
from histodiff.pretraining.validation import Validation
from histodiff.runtime import Notice, derived_seed
from histodiff.storage import storage_path
from histodiff.telemetry import metrics
from histodiff.training import (
    CHECKPOINTS,
    CompletedStep,
    DeepSpeedEngine,
    DivergenceMonitor,
    MetricsRow,
    MicroLoss,
    StepResult,
    TimingRow,
    Trainer,
    TrainingState,
    ValidationRow,
    micro_batches,
    seed_torch,
)

_log = logging.getLogger(__name__)


class DenoiserTrainer(Trainer[CleanAndNoise]):
    """Trains a denoiser on one rank; every rank makes the same calls.

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
        self.alignment = self._alignment()
        self.preconditioning = self.denoiser.preconditioning
        self.micro_batch = spec.train.micro_batch_of(world_size)
        self.attention = chosen_attention(self.denoiser, spec, batch=self.micro_batch)
        self.validation = self._validation()
        state = TrainingState(
            DeepSpeedEngine(self.denoiser, config=spec.train, device=spec.device),
            config=spec.train,
            checkpoints=self.path / CHECKPOINTS,
            run=spec.run,
            notice=notice,
        )
        self.divergence = DivergenceMonitor(state, config=spec.train, run=spec.run)
        super().__init__(state, run=spec.run, num_recent=self.divergence.num_recent)
        machine = Machine.of(spec, world_size=world_size, training_flops=self.flops.training)
        self.monitor = Monitor(
            spec, rank=rank, machine=machine, last_checkpoint=lambda: self.state.complete_step
        )
        self.previews = Previews(spec, self.data.latent_shape, stores=self.data.stores)

    def batches(self) -> AbstractContextManager[Iterator[CleanAndNoise]]:
        shown = self.spec.denoiser.self_conditioning
        return training_batches(
            self.data.mixture,
            whitening=self.spec.whitening,
            view=self.spec.view,
            symmetries=self.spec.symmetries,
            channels=self.data.symmetries,
            self_conditioning=0.0 if shown is None else shown.probability,
            seed=self.spec.seed,
            rank=self.rank,
            world_size=self.world_size,
            steps=range(self.state.step, self.spec.train.num_steps),
            batch_of=self.divergence.batch_of,
        )

    def losses(self, batch: CleanAndNoise) -> Sequence[MicroLoss]:
        # Dropout is the one draw that depends on the rank; presets have none.
        seed_torch(
            derived_seed(self.spec.seed, "dropout", self.state.step, self.rank),
            device=torch.device(self.spec.device),
        )
        return [
            partial(
                micro_loss,
                part=CleanAndNoise(*(tensor.to(self.spec.device) for tensor in part)),
                preconditioning=self.preconditioning,
                estimates=self._estimates,
                alignment=self.alignment,
                weighting=self.spec.denoiser.objective.weighting,
            )
            for part in micro_batches(batch, self.micro_batch)
        ]

    def require_sound(self, result: StepResult) -> None:
        self.divergence.require_sound(result)

    def after_row(self, row: MetricsRow, timing: TimingRow) -> None:
        self.monitor.row(row, timing, loss_scale=self._loss_scale)

    def after_step(self, result: StepResult) -> None:
        state, spec = self.state, self.spec
        if result.skipped:
            self._warn_of_overflow()
        if self.validation and state.is_due(self.validation.config.every_images):
            self._validate(self.validation)
        if state.is_due(spec.snapshot_images):
            self._snapshot(f"images-{state.images_seen:012d}")
        if state.is_due(spec.preview_images):
            self._preview()

    def report(self, result: StepResult) -> None:
        self._report(self.monitor.step(self.state.step, result.loss))

    def steps(self) -> Generator[CompletedStep, None, None]:
        """Trains step by step to the end; writes checkpoints and snapshots on the way.

        Raises:
            TrainingDiverged: The loss leapt, or it or the gradient became non-finite.
            RolledBack: It did, and the next attempt is to pass over some images.
            Preempted: Notice was given, and a checkpoint is complete.
        """
        self.monitor.begin(self.state.step, self.state.records)
        return super().steps()

    def finish(self) -> None:
        """Writes what is published: the last snapshot and the tables."""
        self._snapshot(LAST)
        if self.rank == 0:
            write_tables(self.path, self.state.records, self.divergence.rollbacks)
        self.state.wait()

    def close(self) -> None:
        super().close()
        self.monitor.close()

    @property
    def _estimates(self) -> Estimates:
        """Of which samples of a micro-batch the network is shown an estimate."""
        if self.spec.denoiser.self_conditioning is None:
            return "none"
        one_shape = self.spec.train.compile or self.spec.device != "cpu"
        return "whole_batch" if one_shape else "chosen"

    @property
    def _loss_scale(self) -> float | None:
        """Of fp16."""
        scale = self.state.engine.loss_scale
        return None if scale is None else scale.value

    def _alignment(self) -> Alignment | None:
        if self.spec.alignment is None:
            return None
        with torch.random.fork_rng(devices=[]):  # first weights of the projection
            torch.manual_seed(derived_seed(self.spec.seed, "alignment-weights"))
            return Alignment(
                self.spec.alignment,
                self.denoiser,
                whitening=self.spec.whitening,
                encoder_sha256=self.data.stores[0].encoder_sha256,
                device=self.spec.device,
            )

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

    def _warn_of_overflow(self) -> None:
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
            whitening_scale=self.spec.whitening.scale,
            whitening_rule=scaling_rule(self.spec.scaling),
            view=self.spec.view,
            encoder_sha256=store.encoder_sha256,
            patch_px=store.patch_px,
            mpp=store.mpp,
            images_seen=self.state.images_seen,
        )
