"""One rank's part of the training of an autoencoder: crops in, steps, losses, checkpoints.

It is the loop of pre-training with another objective and without what belongs to latents. What
decides results is a function of (config, step), or lies in the checkpoint.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed

from histodiff.artifacts import UnitIssue
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import TrainingDiverged
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
from histodiff.pretraining.spec import TrainingProgress
from histodiff.runtime import Notice, Prefetched, derived_seed
from histodiff.storage import storage_path
from histodiff.telemetry import metrics
from histodiff.training import StepResult, TrainConfig, mean_over_ranks
from histodiff.training.state import TrainingState, micro_batches
from histodiff.training.timing import StepTimer

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
        report: Callable[[TrainingProgress], None],
        notice: Callable[[], Notice],
    ) -> None:
        self.spec, self.rank = spec, rank
        self._report = report
        self.config = spec.training.train
        self.path = storage_path(spec.artifact)
        self.micro_batch = self.config.micro_batch_of(world_size)
        network = _prepared(initial_network(spec, device=spec.device), self.config)
        self.crops, self.failed = _crops(spec, network, rank=rank, world_size=world_size)
        objective = Objective(network, spec.training, num_classes=spec.num_classes, seed=spec.seed)
        self.state = TrainingState(
            objective,
            config=self.config,
            device=spec.device,
            artifact=self.path,
            run=spec.run,
            records=LossRecords(),
            notice=notice,
        )

    def resume(self) -> None:
        """Takes up the newest complete checkpoint, if there is one."""
        self.state.resume(LossRecords.from_json)

    def run(self) -> None:
        """Trains to the end; writes checkpoints on the way.

        Raises:
            TrainingDiverged: The loss or the gradient became non-finite.
            Preempted: Notice was given, and a checkpoint is complete.
        """
        steps = range(self.state.step, self.config.num_steps)
        clock = StepTimer(self.spec.run, rank=self.rank)
        with Prefetched(self.crops.batches(steps), ahead=_AHEAD) as batches:
            waited, asked = 0.0, time.perf_counter()
            for batch in batches:
                waited += time.perf_counter() - asked
                result = self._advance(batch)
                clock.tick(self.config.batch, waited)
                self._after_step(result)
                if result.noticed:
                    self.state.heed()
                asked = time.perf_counter()

    def finish(self) -> None:
        """Writes what is published: the autoencoder with the averaged weights, and the losses."""
        weights = self.state.average(0)
        if self.rank == 0:
            network = initial_network(self.spec, device="cpu")
            take_weights(network, weights)
            save_autoencoder(self.path, Autoencoder(network))
            self.state.records.write_table(self.path)
        self.state.writer.wait()

    def close(self) -> None:
        """Ends uploads and frees the engine."""
        self.state.close()

    def _advance(self, batch: CropBatch) -> StepResult:
        """One optimizer step on this rank's share of a batch."""
        found: list[dict[str, torch.Tensor]] = []
        losses = [
            partial(
                _loss,
                part=part,
                device=self.spec.device,
                found=found,
                images_seen=self.state.images_seen,
            )
            for part in micro_batches(batch, self.micro_batch)
        ]
        result = self.state.advance(losses, require_sound=self._require_sound)
        self.state.records.add(result.loss, _mean_terms(found))
        return result

    def _require_sound(self, result: StepResult) -> None:
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            raise TrainingDiverged(self.state.step, self.state.last_checkpoint)

    def _after_step(self, result: StepResult) -> None:
        state = self.state
        if state.is_due(self.config.log_images):
            loss = state.records.end_row(
                step=state.step, images_seen=state.images_seen, grad_norm=result.grad_norm,
                lr=self.config.lr_at(state.images_seen),
            )  # fmt: skip
            metrics.TRAIN_LOSS.labels(run=self.spec.run).set(loss)
            metrics.TRAIN_GRAD_NORM.labels(run=self.spec.run).set(result.grad_norm)
        if state.is_due(self.config.checkpoint_images):
            state.save()
        self._report(TrainingProgress(state.images_seen, result.loss))


def initial_network(spec: AutoencoderSpec, *, device: str) -> AutoencoderNetwork:
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
