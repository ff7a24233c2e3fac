"""Training of an autoencoder on the ranks of the site, and what there is to say of the result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from histodiff.artifacts import Artifact, Draft, UnitIssue
from histodiff.cluster.gang import run_gang
from histodiff.cluster.site import Site
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.models.autoencoder import Autoencoder, load_autoencoder
from histodiff.models.perceptual import Lpips, RandomFeatures, with_absolute_paths
from histodiff.models.weights import num_parameters
from histodiff.pretraining.autoencoder.patches import LoadedPatches, load_patches
from histodiff.pretraining.autoencoder.rank import train_rank
from histodiff.pretraining.autoencoder.spec import AutoencoderSpec
from histodiff.pretraining.spec import TrainingProgress
from histodiff.runtime import Notice
from histodiff.storage import StoragePath, storage_path
from histodiff.telemetry import HubAddress, progress
from histodiff.training import newest_step
from histodiff.training.state import CHECKPOINTS
from histodiff.workflows.autoencoder.config import (
    SOURCE,
    TARGETS,
    AutoencoderConfig,
    DecoderMode,
    TrainMode,
)
from histodiff.workflows.autoencoder.reconstructions import measured, measured_on_targets
from histodiff.workflows.gangs import hub_of_ranks, rank_hub, reporter
from histodiff.workflows.labels import (
    LABELS_SHA256,
    labelled_rows,
    labels_of,
    one_set_of_labels,
)
from histodiff.workflows.networks import SYMMETRIES


@dataclass(frozen=True)
class AutoencoderResult:
    """What the manifest says of a saved autoencoder, and patches that could not be read."""

    contents: dict[str, Any]
    failed: tuple[UnitIssue, ...]
    measured: dict[str, Any]
    """Of this run on this machine, for the provenance: how fast it is."""


@dataclass(frozen=True)
class HeldOut:
    """Validation patches that an autoencoder is measured on."""

    own: LoadedPatches | None
    """Of what it was trained on, or is said to be for."""
    targets: Mapping[str, LoadedPatches]
    """Of each target, by reference."""

    @property
    def failed(self) -> tuple[UnitIssue, ...]:
        """Patches that could not be read."""
        loaded = [*([self.own] if self.own else []), *self.targets.values()]
        return tuple(issue for patches in loaded for issue in patches.failed)


@dataclass(frozen=True)
class _Labels:
    """What the auxiliary classifier may see."""

    label_of: Mapping[int, int]
    num_classes: int
    sha256: str | None


def patch_indexes(inputs: Mapping[str, Artifact]) -> list[Artifact]:
    """The PatchIndexes that are trained and measured on, among the inputs of ``autoencoder``."""
    return [
        artifact
        for key, artifact in inputs.items()
        if key != SOURCE and not key.startswith(TARGETS)
    ]


def target_indexes(inputs: Mapping[str, Artifact]) -> dict[str, StoragePath]:
    """Where the PatchIndexes that are only measured on lie, by reference."""
    return {
        str(artifact.reference): artifact.path
        for key, artifact in inputs.items()
        if key.startswith(TARGETS)
    }


def trained_autoencoder(
    config: AutoencoderConfig,
    mode: TrainMode | DecoderMode,
    site: Site,
    draft: Draft,
    inputs: Mapping[str, Artifact],
) -> AutoencoderResult:
    """Trains on the ranks of the site, and says what came of it.

    Raises:
        ConfigError: Patches, labels or ranks do not suit.
        TrainingDiverged: The loss became non-finite.
        Preempted: The command was told to end, and has saved everything.
    """
    labels = _labels(mode, patch_indexes(inputs), seed=config.seed)
    seen = one_set_of_labels({"mode.loss.classification": labels.sha256, **_of_source(inputs)})
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
    used = {LABELS_SHA256: seen} if seen else {}
    return replace(result, contents={**result.contents, **used})


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
        indexes=tuple(str(artifact.path) for artifact in patch_indexes(inputs)),
        targets={name: str(path) for name, path in target_indexes(inputs).items()},
        training=_with_absolute_paths(mode),
        source=str(inputs[SOURCE].path) if isinstance(mode, DecoderMode) else None,
        label_of=labels.label_of,
        num_classes=labels.num_classes,
        num_held_out=config.num_held_out,
        perceptual=with_absolute_paths(config.perceptual),
        seed=config.seed,
        threads=config.threads,
        device=site.device,
        hub=hub_of_ranks(draft.path, hub),
    )


def _with_absolute_paths(mode: TrainMode | DecoderMode) -> TrainMode | DecoderMode:
    """The mode for ranks, which may run in other folders."""
    term = mode.loss.perceptual
    if term is None:
        return mode
    term = term.model_copy(update={"network": with_absolute_paths(term.network)})
    loss = mode.loss.model_copy(update={"perceptual": term})
    return mode.model_copy(update={"loss": loss})


def _of_source(inputs: Mapping[str, Artifact]) -> dict[str, str | None]:
    """The labels that the autoencoder saw whose decoder is trained further."""
    source = inputs.get(SOURCE)
    return {} if source is None else {f"autoencoder {source.reference}": labels_of(source)}


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
    report: Callable[[TrainingProgress], None],
    notice: Callable[[], Notice],
) -> AutoencoderResult:
    """What every rank does; rank 0, which has the device, measures as well."""
    # Before the training: that there is nothing to measure on should not show after it.
    held_out = _held_out(spec) if rank == 0 else HeldOut(None, {})
    outcome = train_rank(spec, rank, world_size, report, notice)
    if rank != 0:
        return AutoencoderResult({}, (), {})
    folder = storage_path(spec.artifact)
    network = load_autoencoder(folder, device=spec.device)
    result = described(network, held_out, folder, perceptual=spec.perceptual)
    contents = {**result.contents, "images_seen": outcome.images_seen}
    return replace(result, contents=contents, failed=(*outcome.failed, *result.failed))


def _held_out(spec: AutoencoderSpec) -> HeldOut:
    return held_out_patches(
        [storage_path(index) for index in spec.indexes],
        {name: storage_path(path) for name, path in spec.targets.items()},
        count=spec.num_held_out,
        seed=spec.seed,
    )


def held_out_patches(
    indexes: Sequence[StoragePath], targets: Mapping[str, StoragePath], *, count: int, seed: int
) -> HeldOut:
    """At most ``count`` validation patches of all ``indexes``, and as many of each target.

    Raises:
        ConfigError: There is none in one of them.
    """

    def loaded(paths: Sequence[StoragePath]) -> LoadedPatches:
        opened = [PatchIndex.open(path) for path in paths]
        return load_patches(opened, split="val", count=count, seed=seed)

    own = loaded(indexes) if indexes else None
    return HeldOut(own, {name: loaded([path]) for name, path in targets.items()})


def described(
    network: Autoencoder,
    held_out: HeldOut,
    folder: StoragePath,
    *,
    perceptual: RandomFeatures | Lpips,
) -> AutoencoderResult:
    """What there is to say of the autoencoder in ``folder``; it is measured on ``held_out``."""
    quality: dict[str, Any] = {}
    rates: dict[str, Any] = {}
    if held_out.own is not None:
        found = measured(network, held_out.own.pixels_NHWC, folder, perceptual=perceptual)
        quality, rates = found.quality, {"images_per_second": found.images_per_second}
    if held_out.targets:
        quality["targets"] = measured_on_targets(
            network,
            {name: patches.pixels_NHWC for name, patches in held_out.targets.items()},
            folder,
            perceptual=perceptual,
        )
    contents = {
        "network": type(network.network).__name__,
        "posterior": network.posterior_type,
        "encoder_sha256": network.encoder_sha256,
        "decoder_sha256": network.decoder_sha256,
        "downsampling": network.downsampling,
        "latent_channels": network.latent_channels,
        SYMMETRIES: network.symmetries.model_dump(mode="json") if network.symmetries else None,
        "parameters": num_parameters(network.network),
        **quality,
    }
    return AutoencoderResult(contents, held_out.failed, rates)
