"""``pretrain``: latents -> an unconditional denoiser, with DeepSpeed on any number of ranks.

The rank function lies in ``pretraining``, the machinery that runs it N times in ``cluster.gang``.
How many ranks there are is a matter of the site and changes results by rounding only.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from histodiff.artifacts import (
    Artifact,
    CommandConfig,
    Draft,
    Kind,
    Reference,
    begin,
    content_sha256,
    open_artifact,
)
from histodiff.artifacts.artifact import published_digests
from histodiff.cluster.gang import run_gang, torchrun_rank
from histodiff.cluster.site import Ranks, Site, fewest_ranks, possible_ranks
from histodiff.config import Config, Location
from histodiff.errors import ArtifactError, ConfigError
from histodiff.latents import (
    UNIT_VARIANCE,
    ChannelStatistics,
    LatentStore,
    PowerScaling,
    PublishedScaling,
    ScalingConfig,
    SlabCache,
    View,
    Whitening,
    mixture_whitening,
)
from histodiff.models.denoiser import DenoiserConfig
from histodiff.models.pretrained import UNetSource, absolute_source, source_sha256
from histodiff.pretraining.alignment import AlignmentConfig, AlignmentSpec
from histodiff.pretraining.monitor import TENSORBOARD
from histodiff.pretraining.previews import PREVIEWS
from histodiff.pretraining.rank import pretrain_rank
from histodiff.pretraining.spec import (
    PretrainResult,
    PretrainSpec,
    PreviewQuality,
    StoreShare,
    ValidationConfig,
)
from histodiff.pretraining.tables import TIMING
from histodiff.runtime.symmetries import Symmetries
from histodiff.storage import read_bytes, write_bytes
from histodiff.telemetry import HubAddress, progress
from histodiff.training import TrainConfig, newest_step
from histodiff.training.state import CHECKPOINTS
from histodiff.workflows.gangs import rank_hub, reporter
from histodiff.workflows.networks import (
    ENCODER_SHA256,
    preview_autoencoder,
    published_whitening,
    require_same_encoder,
    require_snapshot,
    snapshot_path,
)
from histodiff.workflows.quality.previews import PreviewQualityConfig, preview_measurement

_WHITENING = "scratch/whitening.json"
_TARGET = "alignment.target.denoiser"
_NO_CONTENT = (TIMING, f"{TENSORBOARD}/", f"{PREVIEWS}/")
"""Files that hold wall times, or depend on what is watched."""
_ALIKE = {
    ENCODER_SHA256: "encode with one encoder",
    "patch_px": "a mixture needs one patch size",
    "mpp": "a mixture needs one scale",
}
"""What all stores of a mixture must have in common, and what to do."""


class MixturePart(Config):
    """One store of the pre-training mixture."""

    latents: Annotated[Reference, Location()]
    """LatentStore whose training rows are drawn from."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the draws, relative to the other stores."""


class PretrainConfig(CommandConfig):
    """Root config of ``pretrain``."""

    artifact_kind: ClassVar[Kind] = Kind.DENOISERS

    stores: tuple[MixturePart, ...] = Field(min_length=1)
    """The stores that are trained on; one encoder, one patch size, one scale."""
    view: View
    """What is seen of a posterior: `sample` is a draw from it, `mean` its mean alone."""
    scaling: ScalingConfig = UNIT_VARIANCE
    """How the channels are scaled: `power` of their standard deviation, so that at 1 every channel
    has unit variance and below 1 strong channels weigh more; or as `published` with the imported
    autoencoder. It is saved with the denoiser, and every later reader uses it."""
    symmetries: Symmetries
    """Of every image, a random member of the group is seen: `none`, `flips` of either axis and
    both, `flips_and_turns` (all eight of the square). A convolutional autoencoder is not
    equivariant: look at `equivariance` of the autoencoder (report, inspect) before choosing."""
    num_lanes: int = Field(ge=1)
    """Lanes that define the order of images; a multiple of any number of ranks to be used."""
    denoiser: DenoiserConfig
    """The network and its objective."""
    init: UNetSource | None = None
    """A UNet saved by diffusers to start from (network `unet` only); null starts from random
    weights."""
    alignment: AlignmentConfig | None = None
    """Aligns a layer with the features of a finished denoiser (REPA); null aligns nothing."""
    train: TrainConfig
    """The optimization."""
    validation: ValidationConfig | None
    """Validation loss by noise level; null for stores without validation rows."""
    snapshot_images: int | None = Field(default=None, ge=1)
    """Every how many images an EMA snapshot is kept; null keeps the last only."""
    preview_images: Annotated[int | None, Location()] = Field(default=None, ge=0)
    """Every how many images a grid of samples is drawn into `previews/`; null and 0 draw none."""
    preview_quality: Annotated[PreviewQualityConfig | None, Location()] = None
    """Measures of more samples at the same times, as JSON beside the grids; null measures none."""
    seed: int
    """Decides first weights, order, posterior draws, noise levels and noise."""
    threads: int = Field(ge=1)
    """Torch threads of a rank; results on a CPU depend on it."""

    @model_validator(mode="after")
    def _lanes_divide_batch(self) -> "PretrainConfig":
        if self.train.batch % self.num_lanes:
            raise ValueError(
                f"train.batch={self.train.batch} must be a multiple of num_lanes={self.num_lanes}"
            )
        return self

    @model_validator(mode="after")
    def _measured_when_shown(self) -> "PretrainConfig":
        if self.preview_quality and not (self.preview_images and self.validation):
            raise ValueError(
                "preview_quality is measured when previews are drawn, against validation rows: give"
                " preview_images and validation too"
            )
        return self

    @model_validator(mode="after")
    def _starts_as_what_it_is(self) -> "PretrainConfig":
        if self.init is not None and self.denoiser.network.type != "unet":
            raise ValueError(
                "init is a UNet saved by diffusers, and denoiser.network.type is"
                f" '{self.denoiser.network.type}'; set init: null, or take network type 'unet'"
            )
        return self

    @model_validator(mode="after")
    def _aligned_eagerly(self) -> "PretrainConfig":
        if self.alignment is not None and self.train.compile:
            raise ValueError(
                "alignment reads a layer inside the network, which train.compile=true hides; set"
                " train.compile: false, or alignment: null"
            )
        return self

    def inputs(self) -> dict[str, Reference]:
        stores = {
            f"stores.{number}.latents": part.latents.as_kind(Kind.LATENTS)
            for number, part in enumerate(self.stores)
        }
        if self.alignment is None:
            return stores
        return {**stores, _TARGET: self.alignment.target.denoiser.as_kind(Kind.DENOISERS)}


def pretrain(config: PretrainConfig, site: Site) -> Artifact:
    """Trains the denoiser that ``config`` describes.

    Raises:
        ConfigError: The ranks do not fit the batch, the lanes or the last checkpoint.
        ArtifactError: A store is missing or damaged, or stores have different encoders.
        TrainingDiverged: The loss became non-finite.
    """
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    stores = {key: store for key, store in inputs.items() if key != _TARGET}
    _require_stores_of_one_kind(stores)
    _require_target(config, inputs)
    _require_fitting_ranks(config, site.ranks)
    published = _published(config, stores, site)
    init_sha256 = None if config.init is None else source_sha256(config.init)
    inventory = {"device_class": site.device} | ({"init": init_sha256} if init_sha256 else {})
    draft = begin(root, config, inputs=inputs, inventory=inventory)
    if draft.finished is not None:
        return draft.finished
    run = _Run(config, site, draft, stores, inputs.get(_TARGET), published, init_sha256)
    if torchrun_rank():  # the process of rank 0 drives
        return _pretrained(run)
    with draft:
        return _pretrained(run)


@dataclass(frozen=True)
class _Run:
    """A training that has been begun, and what it is made from."""

    config: PretrainConfig
    site: Site
    draft: Draft
    stores: Mapping[str, Artifact]
    target: Artifact | None
    published: Whitening | None
    init_sha256: str | None


def _pretrained(run: _Run) -> Artifact:
    train, site = run.config.train, run.site
    images = train.num_steps * train.batch
    already = newest_step(run.draft.path / CHECKPOINTS) * train.batch
    with (
        rank_hub(site) as hub,
        progress("pretrain", total=images, unit="images", already=already) as bar,
    ):
        result = run_gang(
            pretrain_rank,
            partial(_spec, run, hub),
            ranks=site.ranks,
            ray_config=site.ray,
            device=site.device,
            report=reporter(bar, already=already),
        )
    return _finished(run.draft, result)


def estimate(config: PretrainConfig, site: Site) -> dict[str, float | int | str]:
    """Images, steps and their cut into ranks and micro-batches; rows of the stores."""
    stores = [
        open_artifact(site.storage_root, address)
        for key, address in config.inputs().items()
        if key != _TARGET
    ]
    _require_fitting_ranks(config, site.ranks)
    return {
        "images": config.train.num_steps * config.train.batch,
        "steps": config.train.num_steps,
        "ranks": fewest_ranks(site.ranks),
        "micro_batch": config.train.micro_batch_of(fewest_ranks(site.ranks)),
        "rows": sum(int(artifact.manifest.contents["rows"]) for artifact in stores),
    }


def _require_stores_of_one_kind(stores: Mapping[str, Artifact]) -> None:
    """Before the artifact is begun: what was begun could only be mended under another version."""
    for key, fix in _ALIKE.items():
        found = {
            str(artifact.reference): artifact.manifest.contents[key] for artifact in stores.values()
        }
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{name} has {str(value)[:12]}" for name, value in found.items())
            raise ArtifactError(f"stores: of different {key} ({listed}); {fix}")


def _require_fitting_ranks(config: PretrainConfig, ranks: Ranks) -> None:
    for number in possible_ranks(ranks):
        config.train.micro_batch_of(number)
        if config.num_lanes % number:
            raise ConfigError(
                f"num_lanes={config.num_lanes} must be a multiple of the site's ranks={number};"
                " change the ranks"
            )


def _spec(run: _Run, hub: HubAddress | None) -> PretrainSpec:
    """What every rank is given; one process makes it, as the whitening reads the stores."""
    config, site = run.config, run.site
    shares = zip(run.stores.values(), config.stores, strict=True)
    autoencoder = preview_autoencoder(run.stores, site) if config.preview_images else None
    return PretrainSpec(
        run=f"{config.name}@{config.version}",
        artifact=str(run.draft.path),
        stores=tuple(StoreShare(str(store.path), part.weight) for store, part in shares),
        whitening=_whitening(run),
        scaling=config.scaling,
        view=config.view,
        symmetries=config.symmetries,
        num_lanes=config.num_lanes,
        denoiser=config.denoiser,
        init=None if config.init is None else absolute_source(config.init),
        init_sha256=run.init_sha256,
        train=config.train,
        validation=config.validation,
        snapshot_images=config.snapshot_images,
        seed=config.seed,
        threads=config.threads,
        device=site.device,
        cache=_cache(site),
        hub=hub,
        peak_flops=site.peak_flops,
        preview_images=config.preview_images or None,
        preview_autoencoder=autoencoder,
        preview_quality=_preview_quality(config, autoencoder, site),
        alignment=_alignment(run),
    )


def _published(
    config: PretrainConfig, stores: Mapping[str, Artifact], site: Site
) -> Whitening | None:
    """The whitening that was published, if the config wants that one; before anything is begun."""
    match config.scaling:
        case PowerScaling():
            return None
        case PublishedScaling():
            return published_whitening(stores, site)


def _require_target(config: PretrainConfig, inputs: Mapping[str, Artifact]) -> None:
    """Before anything is begun: the denoiser that is aligned with is of these latents."""
    if config.alignment is None:
        return
    target = inputs[_TARGET]
    require_same_encoder(next(iter(inputs.values())), target)
    require_snapshot(target, config.alignment.target.snapshot)


def _alignment(run: _Run) -> AlignmentSpec | None:
    config = run.config.alignment
    if config is None or run.target is None:
        return None
    snapshot = snapshot_path(run.target.path, config.target.snapshot)
    return AlignmentSpec(config, str(snapshot))


def _preview_quality(
    config: PretrainConfig, autoencoder: str | None, site: Site
) -> PreviewQuality | None:
    wanted = config.preview_quality
    if wanted is None:
        return None
    measure = preview_measurement(wanted, autoencoder=autoencoder, device=site.device)
    return PreviewQuality(wanted.samples, measure)


def _whitening(run: _Run) -> Whitening:
    """Whitening of the mixture: computed once and kept, so that a restart reads no store for it."""
    place = run.draft.path / _WHITENING
    if place.exists():
        return Whitening.from_json(read_bytes(place))
    found = run.published or _measured_whitening(run)
    write_bytes(place, found.to_json().encode())
    return found


def _measured_whitening(run: _Run) -> Whitening:
    scaling = run.config.scaling
    assert isinstance(scaling, PowerScaling)
    return mixture_whitening(
        [LatentStore.open(artifact.path) for artifact in run.stores.values()],
        [part.weight for part in run.config.stores],
        view=run.config.view,
        power=scaling.power,
        recorded=[_statistics(artifact) for artifact in run.stores.values()],
    )


def _statistics(store: Artifact) -> ChannelStatistics | None:
    """What the store's manifest says of its latents; older ones say nothing."""
    recorded = store.manifest.contents.get("statistics")
    return ChannelStatistics.model_validate(recorded) if recorded else None


def _cache(site: Site) -> SlabCache | None:
    cache = site.cache
    return SlabCache(Path(cache.folder).expanduser(), cache.limit_bytes) if cache else None


def _finished(draft: Draft, result: PretrainResult) -> Artifact:
    files = published_digests(draft.path)
    deterministic = {
        name: digest for name, digest in files.items() if not name.startswith(_NO_CONTENT)
    }
    return draft.finish(asdict(result), content=content_sha256(deterministic), files=files)
