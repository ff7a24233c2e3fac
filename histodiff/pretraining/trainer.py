"""One rank's part of pre-training: batches in, optimizer steps, metrics, checkpoints, snapshots.

Everything that decides results is a function of (config, step), or lies in the checkpoint. Legend:
B batch, C channels, H height, W width.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file

from histodiff.data_prep.slides.splits import assert_disjoint
from histodiff.diffusion import Preconditioning, WeightingConfig, training_loss
from histodiff.errors import TrainingDiverged
from histodiff.latents import LatentMixture, LatentStore
from histodiff.models.cost import flops_per_image
from histodiff.models.denoiser import SnapshotInfo, TrainingOutput, save_snapshot
from histodiff.pretraining.draws import CleanAndNoise
from histodiff.pretraining.feed import TrainingFeed
from histodiff.pretraining.first import chosen_attention, first_denoiser
from histodiff.pretraining.records import MetricsRow, RunRecords, TimingRow, ValidationRow
from histodiff.pretraining.spec import PretrainSpec, TrainingNews
from histodiff.pretraining.validation import Validation
from histodiff.runtime import derived_seed
from histodiff.storage import StoragePath, storage_path
from histodiff.telemetry import metrics
from histodiff.training import (
    CheckpointRecord,
    Engine,
    StepResult,
    WeightAverage,
    checkpoint_folder,
    latest_checkpoint,
    opened_checkpoint,
    save_checkpoint,
)

CHECKPOINTS, SNAPSHOTS, LAST = "checkpoints", "snapshots", "last"
_RECORDS = "records.json"


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


class Trainer:
    """Trains on one rank; every rank makes the same calls.

    Args:
        spec: What to train.
        rank: This rank.
        world_size: Number of ranks.
        report: Told after every step where the training is.
    """

    def __init__(
        self,
        spec: PretrainSpec,
        *,
        rank: int,
        world_size: int,
        report: Callable[[TrainingNews], None],
    ) -> None:
        self.spec, self.rank, self.world_size, self._report = spec, rank, world_size, report
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
        self.average = WeightAverage(
            self.engine.masters(), config=spec.train.ema, batch=spec.train.batch
        )
        self.records = RunRecords()
        self.step = 0
        self.checkpoint: CheckpointRecord | None = None

    @property
    def images_seen(self) -> int:
        """The clock."""
        return self.step * self.spec.train.batch

    def resume(self) -> None:
        """Takes up the newest complete checkpoint, if there is one."""
        record = latest_checkpoint(self._checkpoints, zero_stage=self.spec.train.zero_stage)
        if record is None:
            return
        with opened_checkpoint(self._checkpoints, record) as folder:
            self.engine.load(folder)
            self.average.load(load_file(folder / _average_name(self.rank)))
            self.records = RunRecords.from_json((folder / _RECORDS).read_bytes())
        self.step, self.checkpoint = record.step, record
        metrics.TRAIN_RESUMES.labels(run=self.spec.run).inc()

    def run(self) -> None:
        """Trains to the end; writes checkpoints and snapshots on the way.

        Raises:
            TrainingDiverged: Loss or gradient became non-finite.
        """
        feed = TrainingFeed(
            self.data.mixture,
            whitening=self.spec.whitening,
            view=self.spec.view,
            symmetries=self.spec.symmetries,
            seed=self.spec.seed,
            rank=self.rank,
            world_size=self.world_size,
            step=self.step,
        )
        clock = _Clock(self.spec.run, rank=self.rank)
        try:
            while self.step < self.spec.train.num_steps:
                result = self._advance(feed.next())
                clock.tick(self.spec.train.batch, feed.waited_seconds)
                self._after_step(result, clock)
        finally:
            feed.close()

    def finish(self) -> None:
        """Writes what is published: the last snapshot and the tables."""
        self._snapshot(LAST)
        if self.rank == 0:
            self.records.write_tables(self.path)

    def close(self) -> None:
        """Frees the engine."""
        self.engine.close()

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
                _micro_loss,
                part=CleanAndNoise(*(tensor.to(self.spec.device) for tensor in part)),
                preconditioning=self.preconditioning,
                weighting=self.spec.denoiser.objective.weighting,
            )
            for part in parts
        ]
        seen = self.images_seen + self.spec.train.batch
        result = self.engine.step(losses, images_seen=seen)
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            saved = self.checkpoint
            last = str(checkpoint_folder(self._checkpoints, saved.step)) if saved else None
            raise TrainingDiverged(self.step, last)
        self.step += 1
        self.average.update(self.engine.masters(), images_seen=seen)
        return result

    def _after_step(self, result: StepResult, clock: "_Clock") -> None:
        train, due = self.spec.train, self.spec.train.is_due
        self.records.pending.append(result.loss)
        if due(self.step, train.log_images):
            self._record(result, clock)
        if self.validation and due(self.step, self.validation.config.every_images):
            self._validate(self.validation)
        if self.spec.snapshot_images and due(self.step, self.spec.snapshot_images):
            self._snapshot(f"images-{self.images_seen:012d}")
        if due(self.step, train.checkpoint_images):
            self._save()
        self._report(TrainingNews(self.images_seen, result.loss))

    def _record(self, result: StepResult, clock: "_Clock") -> None:
        pending = self.records.pending
        row = MetricsRow(
            step=self.step,
            images_seen=self.images_seen,
            loss=math.fsum(pending) / len(pending),
            grad_norm=result.grad_norm,
            lr=self.spec.train.lr_at(self.images_seen),
        )
        pending.clear()
        self.records.metrics.append(row)
        self.records.timing.append(clock.lap(self.step))
        metrics.TRAIN_LOSS.labels(run=self.spec.run).set(row.loss)
        metrics.TRAIN_GRAD_NORM.labels(run=self.spec.run).set(row.grad_norm)

    def _validate(self, validation: Validation) -> None:
        self.records.validation += [
            ValidationRow(self.step, self.images_seen, bin.sigma, bin.loss, bin.images)
            for bin in validation.losses(self.engine.module)
        ]

    def _save(self) -> None:
        started = time.perf_counter()
        save_checkpoint(
            self._checkpoints,
            self._write_part,
            step=self.step,
            zero_stage=self.spec.train.zero_stage,
            keep=self.spec.train.keep_checkpoints,
        )
        self.checkpoint = CheckpointRecord(
            self.step, self.world_size, self.spec.train.zero_stage, {}
        )
        seconds = time.perf_counter() - started
        metrics.TRAIN_CHECKPOINT_SECONDS.labels(run=self.spec.run).observe(seconds)

    def _write_part(self, folder: Path) -> None:
        self.engine.save(folder)
        save_file(self.average.tensors(), folder / _average_name(self.rank))
        if self.rank == 0:
            (folder / _RECORDS).write_bytes(self.records.to_json())

    def _snapshot(self, name: str) -> None:
        state = self.engine.gathered(self.average.parts)
        if self.rank != 0:
            return
        store = self.data.stores[0]
        info = SnapshotInfo(
            whitening_mean=self.spec.whitening.mean,
            whitening_std=self.spec.whitening.std,
            view=self.spec.view,
            encoder_sha256=store.encoder_sha256,
            patch_px=store.patch_px,
            mpp=store.mpp,
            images_seen=self.images_seen,
        )
        save_snapshot(self.path / SNAPSHOTS / name, self.denoiser, info, state=state)


class _Clock:
    """Wall time of steps, for metrics and the timing table; rank 0 counts the images of all."""

    def __init__(self, run: str, *, rank: int) -> None:
        self._run, self._rank = run, rank
        self._tick = self._lap = time.perf_counter()
        self._waited = self._lap_waited = 0.0

    def tick(self, images: int, waited_seconds: float) -> None:
        """Counts a step of ``images`` images."""
        now = time.perf_counter()
        seconds = now - self._tick
        if self._rank == 0:
            metrics.TRAIN_IMAGES.labels(run=self._run).inc(images)
            metrics.TRAIN_IMAGES_PER_SECOND.labels(run=self._run).set(images / seconds)
        metrics.TRAIN_STEP_SECONDS.labels(run=self._run).observe(seconds)
        metrics.TRAIN_DATA_WAIT_SECONDS.labels(run=self._run).inc(waited_seconds - self._waited)
        self._tick, self._waited = now, waited_seconds

    def lap(self, step: int) -> TimingRow:
        """The time since the last lap."""
        row = TimingRow(step, self._tick - self._lap, self._waited - self._lap_waited)
        self._lap, self._lap_waited = self._tick, self._waited
        return row


def _micro_loss(
    denoise: torch.nn.Module,
    *,
    part: CleanAndNoise,
    preconditioning: Preconditioning,
    weighting: WeightingConfig,
) -> torch.Tensor:
    """Mean training loss of one micro-batch: unweighted as a value, weighted as a gradient."""
    sigma_B = preconditioning.training_sigma(part.uniform_B).float()
    noisy_BCHW = part.clean_BCHW + sigma_B.reshape(-1, 1, 1, 1) * part.noise_BCHW
    found: TrainingOutput = denoise(noisy_BCHW, sigma_B, output="training")
    return training_loss(
        preconditioning.loss(found.denoised_BCHW, part.clean_BCHW, sigma_B),
        sigma_B,
        weighting=weighting,
        preconditioning=preconditioning,
        uncertainty_B=found.uncertainty_B,
    )


def _average_name(rank: int) -> str:
    return f"average-{rank:05d}.safetensors"
