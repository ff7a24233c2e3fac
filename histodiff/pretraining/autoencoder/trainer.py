"""One rank's part of the training of an autoencoder: crops in, steps, losses, checkpoints.

The loop is that of every training (``training.Trainer``); here are its batches and its losses.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch

from histodiff.artifacts import UnitIssue
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.models.autoencoder import (
    Autoencoder,
    AutoencoderNetwork,
    LinearMap,
    PatchArchitecture,
    create_network,
    downsampling,
    latent_channels,
    load_autoencoder,
    principal_components,
    require_trainable,
    save_autoencoder,
    signed_pixels,
    start_from_linear,
)
from histodiff.pretraining.autoencoder.config import AutoencoderTraining
from histodiff.pretraining.autoencoder.crops import CropBatch, CropSource
from histodiff.pretraining.autoencoder.objective import Losses, Objective, take_weights
from histodiff.pretraining.autoencoder.patches import load_patches, load_places
from histodiff.pretraining.autoencoder.spec import AutoencoderSpec
from histodiff.pretraining.autoencoder.tables import write_losses
from histodiff.pretraining.spec import TrainingProgress
from histodiff.runtime import Notice, Prefetched, derived_seed
from histodiff.storage import storage_path
from histodiff.telemetry import metrics
from histodiff.training import (
    CHECKPOINTS,
    DeepSpeedEngine,
    DivergenceMonitor,
    MetricsRow,
    MicroLoss,
    StepResult,
    TimingRow,
    TrainConfig,
    Trainer,
    TrainingState,
    mean_over_ranks,
    micro_batches,
    ranks,
)

_AHEAD = 2
_LINEAR_PATCHES = 2048
"""Patches whose principal components a `patch` network starts with."""


class AutoencoderTrainer(Trainer[CropBatch]):
    """Trains an autoencoder on one rank; every rank makes the same calls.

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
        config = spec.training.train
        self.path = storage_path(spec.artifact)
        self.micro_batch = config.micro_batch_of(world_size)
        self.linear = _linear_map(spec, rank=rank)
        network = _prepared(self._initial_network(spec.device), config)
        self.crops, self.failed = _crops(spec, network, rank=rank, world_size=world_size)
        objective = Objective(network, spec.training, num_classes=spec.num_classes, seed=spec.seed)
        self._terms: list[dict[str, torch.Tensor]] = []
        """Of the micro-batches of the step under way."""
        state = TrainingState(
            DeepSpeedEngine(objective, config=config, device=spec.device),
            config=config,
            checkpoints=self.path / CHECKPOINTS,
            run=spec.run,
            notice=notice,
        )
        self.divergence = DivergenceMonitor(state, config=config, run=spec.run)
        super().__init__(state, run=spec.run, num_recent=self.divergence.num_recent)

    def _initial_network(self, device: str) -> AutoencoderNetwork:
        return initial_network(self.spec, linear=self.linear, device=device)

    def batches(self) -> AbstractContextManager[Iterator[CropBatch]]:
        steps = range(self.state.step, self.state.config.num_steps)
        return Prefetched(self.crops.batches(steps), ahead=_AHEAD)

    def losses(self, batch: CropBatch) -> Sequence[MicroLoss]:
        self._terms = []
        return [
            partial(
                _loss,
                part=part,
                device=self.spec.device,
                found=self._terms,
                images_seen=self.state.images_seen,
            )
            for part in micro_batches(batch, self.micro_batch)
        ]

    def terms(self) -> Mapping[str, float]:
        totals = [torch.stack([*terms.values()]).double() for terms in self._terms]
        means = mean_over_ranks(torch.stack(totals).mean(dim=0)).tolist()
        return dict(zip(self._terms[0], means, strict=True))

    def require_sound(self, result: StepResult) -> None:
        self.divergence.require_sound(result)

    def after_row(self, row: MetricsRow, timing: TimingRow) -> None:
        metrics.TRAIN_LOSS.labels(run=self.spec.run).set(row.loss)
        metrics.TRAIN_GRAD_NORM.labels(run=self.spec.run).set(row.grad_norm)

    def report(self, result: StepResult) -> None:
        self._report(TrainingProgress(self.state.images_seen, result.loss))

    def finish(self) -> None:
        """Writes what is published: the autoencoder with the averaged weights, and the losses."""
        weights = self.state.average(0)
        if self.rank == 0:
            network = self._initial_network("cpu")
            take_weights(network, weights)
            save_autoencoder(self.path, Autoencoder(network))
            write_losses(self.path, self.state.records.metrics)
        self.state.wait()


def _linear_map(spec: AutoencoderSpec, *, rank: int) -> LinearMap | None:
    """The linear map that a `patch` network starts as, the same on every rank; None for others."""
    training = spec.training
    if not isinstance(training, AutoencoderTraining):
        return None
    architecture = training.architecture
    if not isinstance(architecture, PatchArchitecture):
        return None
    found = b""
    if rank == 0:
        indexes = [PatchIndex.open(storage_path(index)) for index in spec.indexes]
        count = min(_LINEAR_PATCHES, training.max_patches)
        patches = load_patches(indexes, split="train", count=count, seed=spec.seed)
        found = principal_components(
            patches.pixels_NHWC,
            side=architecture.downsampling,
            count=architecture.latent_channels,
            seed=spec.seed,
        ).to_bytes()
    return LinearMap.from_bytes(ranks.broadcast_bytes(found))


def initial_network(
    spec: AutoencoderSpec, *, linear: LinearMap | None, device: str
) -> AutoencoderNetwork:
    """The network that training starts with: a finished one, or drawn on the CPU.

    Either way it is the same on every device and rank.

    Args:
        spec: What is trained.
        linear: The linear map that a `patch` network starts as.
        device: Where it will run.
    """
    training = spec.training
    if not isinstance(training, AutoencoderTraining):
        assert spec.source is not None
        return load_autoencoder(storage_path(spec.source), device=device).network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(spec.seed, "autoencoder weights"))
        network = create_network(training.architecture)
    if linear is not None:
        start_from_linear(network, linear)
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
        latent_channels=latent_channels(network),
        downsampling=downsampling(network),
        batch=spec.training.train.batch,
        seed=spec.seed,
    )
    failed = ranks.all_gather([issue.model_dump() for issue in patches.failed])
    return source, tuple(UnitIssue.model_validate(issue) for part in failed for issue in part)


def _prepared(network: AutoencoderNetwork, config: TrainConfig) -> AutoencoderNetwork:
    """With what the config asks for to save memory or time.

    Weights lie in plain order, as the engine's flat partitions and checkpoints want them; pixels
    are channels-last.

    Raises:
        ConfigError: It cannot be trained so.
    """
    require_trainable(network)
    if config.activation_checkpointing:
        try:
            network.enable_gradient_checkpointing()
        except ValueError as error:
            raise ConfigError(
                f"mode.train.activation_checkpointing: {type(network).__name__} has none; set it to"
                " false"
            ) from error
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
    pixels_BCHW, noise_BCHW, label_B, turn_B = (tensor.to(device) for tensor in part)
    losses: Losses = module(
        signed_pixels(pixels_BCHW), noise_BCHW, label_B, turn_B, images_seen=images_seen
    )
    found.append(losses.terms)
    return losses.total
