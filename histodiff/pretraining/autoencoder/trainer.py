"""One rank's part of the training of an autoencoder: crops in, steps, losses, checkpoints.

It is the loop of pre-training with another objective and without what belongs to latents. What
decides results is a function of (config, step), or lies in the checkpoint.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from histodiff.artifacts import UnitIssue
from histodiff.data_prep.slides.patch_index import PatchIndex
from histodiff.errors import Preempted, TrainingDiverged
from histodiff.models.autoencoder import (
    Autoencoder,
    AutoencoderNetwork,
    create_network,
    load_autoencoder,
    save_autoencoder,
    signed_pixels,
)
from histodiff.pretraining.autoencoder.config import AutoencoderTraining
from histodiff.pretraining.autoencoder.crops import CropBatch, CropSource
from histodiff.pretraining.autoencoder.objective import Losses, Objective, take_weights
from histodiff.pretraining.autoencoder.patches import load_places
from histodiff.pretraining.autoencoder.records import LossRecords
from histodiff.pretraining.autoencoder.spec import AutoencoderSpec
from histodiff.pretraining.spec import TrainingNews
from histodiff.runtime import Notice, Prefetched, derived_seed
from histodiff.storage import StoragePath, storage_path
from histodiff.telemetry import metrics
from histodiff.training import (
    CheckpointRecord,
    CheckpointWriter,
    Engine,
    StepResult,
    TrainConfig,
    WeightAverages,
    checkpoint_folder,
    mean_over_ranks,
    opened_newest,
)

CHECKPOINTS = "checkpoints"
_RECORDS = "records.json"
_AHEAD = 2


class AutoencoderTrainer:
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
        spec: AutoencoderSpec,
        *,
        rank: int,
        world_size: int,
        report: Callable[[TrainingNews], None],
        notice: Callable[[], Notice],
    ) -> None:
        self.spec, self.rank, self.world_size = spec, rank, world_size
        self._report, self._notice, self._told = report, notice, Notice.NONE
        self.config = spec.training.train
        self.path = storage_path(spec.artifact)
        self.micro_batch = self.config.micro_batch_of(world_size)
        network = _prepared(first_network(spec, device=spec.device), self.config)
        self.crops, self.failed = _crops(spec, network, rank=rank, world_size=world_size)
        objective = Objective(network, spec.training, num_classes=spec.num_classes, seed=spec.seed)
        self.engine = Engine(objective, config=self.config, device=spec.device)
        self.averages = WeightAverages(
            self.engine.masters(), config=self.config.ema, batch=self.config.batch
        )
        self.writer = CheckpointWriter(
            self._checkpoints, zero_stage=self.config.zero_stage, kept=self.config.kept_steps
        )
        self.records = LossRecords()
        self.step = 0
        self.saved_step: int | None = None

    @property
    def images_seen(self) -> int:
        """The clock."""
        return self.step * self.config.batch

    def resume(self) -> None:
        """Takes up the newest complete checkpoint, if there is one."""
        with opened_newest(self._checkpoints, needed=self._needed) as opened:
            if opened is None:
                return
            self.engine.load(opened.folder, record=opened.record, averages=self.averages.states())
            self.records = LossRecords.from_json((opened.folder / _RECORDS).read_bytes())
        self.step = self.saved_step = opened.record.step
        metrics.TRAIN_RESUMES.labels(run=self.spec.run).inc()

    def run(self) -> None:
        """Trains to the end; writes checkpoints on the way.

        Raises:
            TrainingDiverged: The loss or the gradient became non-finite.
            Preempted: Notice was given, and a checkpoint is complete.
        """
        steps = range(self.step, self.config.num_steps)
        with Prefetched(self.crops.batches(steps), ahead=_AHEAD) as batches:
            for batch in batches:
                result = self._advance(batch)
                self._after_step(result)
                if result.noticed:
                    self._heed()

    def finish(self) -> None:
        """Writes what is published: the autoencoder with the averaged weights, and the losses."""
        state = self.engine.gathered(self.averages.parts[0])
        if self.rank == 0:
            network = first_network(self.spec, device="cpu")
            take_weights(network, state)
            save_autoencoder(self.path, Autoencoder(network))
            self.records.write_table(self.path)
        self.writer.wait()

    def close(self) -> None:
        """Ends uploads and frees the engine."""
        self.writer.close()
        self.engine.close()

    @property
    def _checkpoints(self) -> StoragePath:
        return self.path / CHECKPOINTS

    def _advance(self, batch: CropBatch) -> StepResult:
        """One optimizer step on this rank's share of a batch."""
        started = time.perf_counter()
        parts = zip(*(torch.split(tensor, self.micro_batch) for tensor in batch), strict=True)
        found: list[dict[str, torch.Tensor]] = []
        losses = [
            partial(
                _loss,
                part=CropBatch(*part),
                device=self.spec.device,
                found=found,
                images_seen=self.images_seen,
            )
            for part in parts
        ]
        seen = self.images_seen + self.config.batch
        self._told = self._notice()
        result = self.engine.step(losses, images_seen=seen, notice=self._told is not Notice.NONE)
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            raise TrainingDiverged(self.step, self._last_checkpoint())
        self.step += 1
        self.averages.update(self.engine.masters(), images_seen=seen)
        self.records.add(result.loss, _mean_terms(found))
        self._count(time.perf_counter() - started)
        return result

    def _after_step(self, result: StepResult) -> None:
        if self.config.is_due(self.step, self.config.log_images):
            loss = self.records.end_row(
                step=self.step, images_seen=self.images_seen, grad_norm=result.grad_norm,
                lr=self.config.lr_at(self.images_seen),
            )  # fmt: skip
            metrics.TRAIN_LOSS.labels(run=self.spec.run).set(loss)
            metrics.TRAIN_GRAD_NORM.labels(run=self.spec.run).set(result.grad_norm)
        if self.config.is_due(self.step, self.config.checkpoint_images):
            self._save()
        self._report(TrainingNews(self.images_seen, result.loss))

    def _count(self, seconds: float) -> None:
        metrics.TRAIN_STEP_SECONDS.labels(run=self.spec.run).observe(seconds)
        if self.rank == 0:
            metrics.TRAIN_IMAGES.labels(run=self.spec.run).inc(self.config.batch)
            rate = metrics.TRAIN_IMAGES_PER_SECOND.labels(run=self.spec.run)
            rate.set(self.config.batch / seconds)

    def _heed(self) -> None:
        """Makes a checkpoint because some rank has to go; ends if it must go at once."""
        notices: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(notices, self._told)
        if self.saved_step != self.step:
            self._save()
        if max(notices) is Notice.LEAVE and self.step < self.config.num_steps:
            self.writer.wait()
            raise Preempted(self.images_seen)

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

    def _last_checkpoint(self) -> str | None:
        if self.saved_step is None:
            return None
        return str(checkpoint_folder(self._checkpoints, self.saved_step))


def first_network(spec: AutoencoderSpec, *, device: str) -> AutoencoderNetwork:
    """The network that training starts with: a finished one, or drawn on the CPU.

    Either way it is the same on every device and rank.
    """
    training = spec.training
    if not isinstance(training, AutoencoderTraining):
        assert spec.source is not None
        return load_autoencoder(storage_path(spec.source), device=device).network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(spec.seed, "autoencoder weights"))
        network = create_network(training.architecture)
    return network.to(device)


def _crops(
    spec: AutoencoderSpec, network: AutoencoderNetwork, *, rank: int, world_size: int
) -> tuple[CropSource, tuple[UnitIssue, ...]]:
    """This rank's crops, and the patches that any rank failed to read."""
    share = spec.training.train.batch // world_size
    patches = load_places(
        [PatchIndex.open(storage_path(index)) for index in spec.indexes],
        places=range(rank * share, (rank + 1) * share),
        batch=spec.training.train.batch,
        count=spec.training.max_patches,
        label_of=spec.label_of,
        seed=spec.seed,
    )
    source = CropSource(
        patches,
        crop_px=spec.training.crop_px,
        latent_channels=network.config.latent_channels,
        downsampling=2 ** (len(network.config.block_out_channels) - 1),
        batch=spec.training.train.batch,
        seed=spec.seed,
    )
    failed: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(failed, patches.failed)
    return source, tuple(issue for part in failed for issue in part)


def _prepared(network: AutoencoderNetwork, config: TrainConfig) -> AutoencoderNetwork:
    """With what the config asks for to save memory or time.

    Weights lie in plain order, as the engine's flat partitions and checkpoints want them; pixels
    are channels-last.
    """
    if config.activation_checkpointing:
        network.enable_gradient_checkpointing()
    if config.compile:
        network.encoder.compile(dynamic=False)
        network.decoder.compile(dynamic=False)
    return network.to(memory_format=torch.contiguous_format)


def _loss(
    module: torch.nn.Module,
    *,
    part: CropBatch,
    device: str,
    found: list[dict[str, torch.Tensor]],
    images_seen: int,
) -> torch.Tensor:
    """The loss of a micro-batch; its terms are added to ``found``."""
    pixels_BCHW, noise_BCHW, label_B = (tensor.to(device) for tensor in part)
    losses: Losses = module(
        signed_pixels(pixels_BCHW), noise_BCHW, label_B, images_seen=images_seen
    )
    found.append(losses.terms)
    return losses.total


def _mean_terms(found: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Means over the micro-batches of all ranks, by term."""
    totals = torch.stack([torch.stack([*terms.values()]).double() for terms in found])
    means = mean_over_ranks(totals.mean(dim=0)).tolist()
    return dict(zip(found[0], means, strict=True))
