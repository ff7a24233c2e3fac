"""``autoencoder``: import a KL autoencoder, train one, or train the decoder of one; measure it.

Writes the network in diffusers' layout, ``metrics.json`` (quality on held-out patches, size of the
latents), ``reconstructions.png`` (originals beside reconstructions) and, after training, the losses
term by term. Training runs on the ranks of the site, and resumes from ``checkpoints/`` like
``pretrain``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from histodiff.artifacts import (
    Artifact,
    CommandConfig,
    Draft,
    Kind,
    Reference,
    UnitIssue,
    begin,
    open_artifact,
)
from histodiff.cluster.gang import run_gang, torchrun_rank
from histodiff.cluster.site import Site, fewest_ranks, possible_ranks
from histodiff.config import Config, Location
from histodiff.data_prep.slides.patch_index import PatchIndex
from histodiff.data_prep.slides.splits import assert_disjoint
from histodiff.errors import ConfigError
from histodiff.models.autoencoder import (
    Autoencoder,
    create_network,
    import_autoencoder,
    load_autoencoder,
    save_autoencoder,
)
from histodiff.models.perceptual import (
    Lpips,
    PerceptualConfig,
    RandomFeatures,
    perceptual_distance,
    with_absolute_paths,
)
from histodiff.models.weights import num_parameters
from histodiff.pretraining.autoencoder.config import AutoencoderTraining, DecoderTraining
from histodiff.pretraining.autoencoder.patches import LoadedPatches, load_patches
from histodiff.pretraining.autoencoder.rank import train_rank
from histodiff.pretraining.autoencoder.spec import AutoencoderSpec
from histodiff.pretraining.autoencoder.trainer import CHECKPOINTS
from histodiff.pretraining.spec import TrainingNews
from histodiff.runtime import Notice
from histodiff.storage import StoragePath, sha256_of, storage_path
from histodiff.telemetry import HubAddress, progress
from histodiff.training import newest_step
from histodiff.workflows.gangs import rank_hub, reporter
from histodiff.workflows.labels import LABELS_SHA256, labelled_rows
from histodiff.workflows.reconstructions import measured

_FLOAT_BYTES = 4
_SOURCE = "mode.autoencoder"


class ImportMode(Config):
    """Take an existing diffusers ``AutoencoderKL``."""

    type: Literal["import"]
    source: Annotated[str, Location()]
    """A folder with config.json and safetensors weights, or a Hugging Face hub id."""
    revision: str | None = None
    """Commit of the hub repository; required for a hub id."""
    subfolder: str | None = None
    """Folder below the source, such as `vae`."""


class TrainMode(AutoencoderTraining):
    """Train an own autoencoder on the train split of the patches."""

    type: Literal["train"]


class DecoderMode(DecoderTraining):
    """Train the decoder of a finished autoencoder on the train split of the patches.

    The encoder stays what it is, so latents that were encoded before stay valid.
    """

    type: Literal["decoder"]
    autoencoder: Annotated[Reference, Location()]
    """The autoencoder whose decoder is trained further."""


Mode = ImportMode | TrainMode | DecoderMode


class AutoencoderConfig(CommandConfig):
    """Config of ``autoencoder``."""

    kind: ClassVar[Kind] = Kind.AUTOENCODERS

    patches: Annotated[tuple[Reference, ...], Location()] = ()
    """PatchIndexes to train on (train split) and to measure on (val split); needed for training."""
    mode: Mode = Field(discriminator="type")
    """`import`, `train` or `decoder`."""
    num_held_out: int = Field(default=128, ge=1)
    """At most this many validation patches are measured."""
    perceptual: PerceptualConfig = RandomFeatures()
    """The network that measures the perceptual distance of reconstructions: `random_features`, or
    `lpips` where its weights are at hand."""
    threads: int = Field(ge=1)
    """Torch threads of a rank; part of the identity, as results on a CPU depend on it."""
    seed: int
    """Decides the first weights, the patches, and every draw."""

    @model_validator(mode="after")
    def _training_needs_patches(self) -> "AutoencoderConfig":
        if not isinstance(self.mode, ImportMode) and not self.patches:
            raise ValueError(f"mode '{self.mode.type}' needs patches; give a list of PatchIndexes")
        return self

    def inputs(self) -> dict[str, Reference]:
        inputs = {
            f"patches.{number}": reference.as_kind(Kind.PATCHES)
            for number, reference in enumerate(self.patches)
        }
        if isinstance(self.mode, DecoderMode):
            inputs[_SOURCE] = self.mode.autoencoder.as_kind(Kind.AUTOENCODERS)
        return inputs


def autoencoder(config: AutoencoderConfig, site: Site) -> Artifact:
    """Imports or trains the autoencoder that ``config`` describes.

    Raises:
        ConfigError: The source cannot be loaded, or patches or ranks do not suit.
        TrainingDiverged: The loss became non-finite.
        Preempted: The command was told to end, and has saved everything.
    """
    _require_fitting_ranks(config.mode, site)
    for network in _perceptual_networks(config):
        perceptual_distance(network, device="cpu")  # a missing file shows before anything is begun
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    draft = begin(root, config, inputs=inputs, inventory=_inventory(config.mode, site))
    if draft.finished is not None:
        return draft.finished
    if torchrun_rank():  # the process of rank 0 drives
        return _made(config, site, draft, inputs)
    with draft:
        return _made(config, site, draft, inputs)


def estimate(config: AutoencoderConfig, site: Site) -> dict[str, float | int | str]:
    """What would be done: steps, crops, size of the weights."""
    _require_fitting_ranks(config.mode, site)
    planned: dict[str, float | int | str] = {}
    inputs = {key: open_artifact(site.storage_root, ref) for key, ref in config.inputs().items()}
    for artifact in _indexes(inputs):
        index = PatchIndex.open(artifact.path)
        planned["patches"] = int(planned.get("patches", 0)) + index.patches.num_rows
    match config.mode:
        case ImportMode() as imported:
            planned["source"] = imported.source
            return planned
        case TrainMode() as training:
            with torch.device("meta"):
                network = create_network(training.architecture, device="meta")
            planned["bytes"] = num_parameters(network) * _FLOAT_BYTES
        case DecoderMode():
            parameters = int(inputs[_SOURCE].manifest.contents["parameters"])
            planned["bytes"] = parameters * _FLOAT_BYTES
    train = config.mode.train
    ranks = fewest_ranks(site.ranks)
    planned |= {"steps": train.num_steps, "crops": train.num_steps * train.batch}
    return planned | {"ranks": ranks, "micro_batch": train.micro_batch_of(ranks)}


def _require_fitting_ranks(mode: Mode, site: Site) -> None:
    if isinstance(mode, ImportMode):
        if torchrun_rank() is not None:
            raise ConfigError("mode 'import' needs one process; start it without torchrun")
        return
    for number in possible_ranks(site.ranks):
        mode.train.micro_batch_of(number)


def _perceptual_networks(config: AutoencoderConfig) -> list[RandomFeatures | Lpips]:
    """Those that measure and that train."""
    term = None if isinstance(config.mode, ImportMode) else config.mode.loss.perceptual
    return [config.perceptual, *([term.network] if term is not None else [])]


def _inventory(mode: Mode, site: Site) -> dict[str, str]:
    """What decides the result beside the config: the bytes that are imported, the device."""
    if not isinstance(mode, ImportMode):
        return {"device_class": site.device}
    folder = storage_path(Path(mode.source).expanduser()) / (mode.subfolder or "")
    if not folder.is_dir():
        return {"hub": mode.source, "device_class": site.device}
    files = [file for file in folder.iterdir() if file.name.endswith((".json", ".safetensors"))]
    digests = {file.name: sha256_of(file) for file in sorted(files, key=str)}
    return {**digests, "device_class": site.device}


def _indexes(inputs: Mapping[str, Artifact]) -> list[Artifact]:
    return [artifact for key, artifact in inputs.items() if key != _SOURCE]


def _made(
    config: AutoencoderConfig, site: Site, draft: Draft, inputs: Mapping[str, Artifact]
) -> Artifact:
    torch.set_num_threads(config.threads)
    indexes = [PatchIndex.open(artifact.path) for artifact in _indexes(inputs)]
    for index in indexes:
        assert_disjoint(index.patches)
    if isinstance(config.mode, ImportMode):
        result = _imported(config, config.mode, indexes, draft.path, site.device)
    else:
        result = _trained(config, config.mode, site, draft, inputs)
    return draft.finish(result.contents, failed=result.failed)


@dataclass(frozen=True)
class _Result:
    """What the manifest says of a saved autoencoder, and patches that could not be read."""

    contents: dict[str, Any]
    failed: tuple[UnitIssue, ...]


@dataclass(frozen=True)
class _Labels:
    """What the auxiliary classifier may see."""

    label_of: Mapping[int, int]
    num_classes: int
    sha256: str | None


def _imported(
    config: AutoencoderConfig,
    mode: ImportMode,
    indexes: Sequence[PatchIndex],
    folder: StoragePath,
    device: str,
) -> _Result:
    held_out = None
    if indexes:
        held_out = load_patches(indexes, split="val", count=config.num_held_out, seed=config.seed)
    network = import_autoencoder(
        mode.source, revision=mode.revision, subfolder=mode.subfolder, device=device
    )
    save_autoencoder(folder, network)
    return _described(network, held_out, folder, perceptual=config.perceptual)


def _trained(
    config: AutoencoderConfig,
    mode: TrainMode | DecoderMode,
    site: Site,
    draft: Draft,
    inputs: Mapping[str, Artifact],
) -> _Result:
    labels = _labels(mode, _indexes(inputs), seed=config.seed)
    total = mode.train.num_steps * mode.train.batch
    already = newest_step(draft.path / CHECKPOINTS) * mode.train.batch
    with (
        rank_hub(site) as hub,
        progress("train autoencoder", total=total, unit="images", already=already) as bar,
    ):
        result = run_gang(
            _train_and_measure,
            partial(_spec, config, mode, site, draft, inputs, labels, hub),
            ranks=site.ranks,
            ray_config=site.ray,
            device=site.device,
            report=reporter(bar, already=already),
        )
    used = {LABELS_SHA256: labels.sha256} if labels.sha256 else {}
    return _Result({**result.contents, **used}, result.failed)


def _spec(
    config: AutoencoderConfig,
    mode: TrainMode | DecoderMode,
    site: Site,
    draft: Draft,
    inputs: Mapping[str, Artifact],
    labels: _Labels,
    hub: HubAddress | None,
) -> AutoencoderSpec:
    return AutoencoderSpec(
        run=f"{config.name}@{config.version}",
        artifact=str(draft.path),
        indexes=tuple(str(artifact.path) for artifact in _indexes(inputs)),
        training=_with_absolute_paths(mode),
        source=str(inputs[_SOURCE].path) if isinstance(mode, DecoderMode) else None,
        label_of=labels.label_of,
        num_classes=labels.num_classes,
        num_held_out=config.num_held_out,
        perceptual=with_absolute_paths(config.perceptual),
        seed=config.seed,
        threads=config.threads,
        device=site.device,
        hub=hub,
    )


def _with_absolute_paths(mode: TrainMode | DecoderMode) -> TrainMode | DecoderMode:
    """The mode for ranks, which may run in other folders."""
    term = mode.loss.perceptual
    if term is None:
        return mode
    term = term.model_copy(update={"network": with_absolute_paths(term.network)})
    loss = mode.loss.model_copy(update={"perceptual": term})
    return mode.model_copy(update={"loss": loss})


def _labels(mode: TrainMode | DecoderMode, indexes: Sequence[Artifact], *, seed: int) -> _Labels:
    term = mode.loss.classification if isinstance(mode, DecoderMode) else None
    if term is None:
        return _Labels({}, 0, None)
    if len(indexes) != 1:
        raise ConfigError(
            f"mode.loss.classification needs one PatchIndex, not {len(indexes)}; give the labelled"
            " one, or classification: null"
        )
    patches = PatchIndex.open(indexes[0].path).patches
    used = labelled_rows(patches, budget=term.budget, seed=seed)
    numbers = {label: number for number, label in enumerate(used.counts)}
    if len(numbers) == 1:
        raise ConfigError(
            f"mode.loss.classification: all labels are {next(iter(numbers))!r}; give patches of two"
            " classes or more, or classification: null"
        )
    labels = patches["label"].take(used.rows).to_pylist()
    label_of = dict(zip(used.rows.tolist(), (numbers[label] for label in labels), strict=True))
    return _Labels(label_of, len(numbers), used.sha256)


def _train_and_measure(
    spec: AutoencoderSpec,
    rank: int,
    world_size: int,
    report: Callable[[TrainingNews], None],
    notice: Callable[[], Notice],
) -> _Result:
    """What every rank does; rank 0, which has the device, measures as well."""
    # Before the training: that there is nothing to measure on should not show after it.
    held_out = _held_out(spec) if rank == 0 else None
    outcome = train_rank(spec, rank, world_size, report, notice)
    if rank != 0:
        return _Result({}, ())
    folder = storage_path(spec.artifact)
    network = load_autoencoder(folder, device=spec.device)
    result = _described(network, held_out, folder, perceptual=spec.perceptual)
    contents = {**result.contents, "images_seen": outcome.images_seen}
    return _Result(contents, (*outcome.failed, *result.failed))


def _held_out(spec: AutoencoderSpec) -> LoadedPatches:
    indexes = [PatchIndex.open(storage_path(index)) for index in spec.indexes]
    return load_patches(indexes, split="val", count=spec.num_held_out, seed=spec.seed)


def _described(
    network: Autoencoder,
    held_out: LoadedPatches | None,
    folder: StoragePath,
    *,
    perceptual: RandomFeatures | Lpips,
) -> _Result:
    """What there is to say of the autoencoder in ``folder``; it is measured on ``held_out``."""
    quality: dict[str, Any] = {}
    if held_out is not None:
        quality = measured(network, held_out.pixels_NHWC, folder, perceptual=perceptual)
    contents = {
        "encoder_sha256": network.encoder_sha256,
        "decoder_sha256": network.decoder_sha256,
        "downsampling": network.downsampling,
        "latent_channels": network.latent_channels,
        "parameters": num_parameters(network.network),
        **quality,
    }
    return _Result(contents, held_out.failed if held_out is not None else ())
