"""What every rank of a training is told: ``PretrainSpec``, made once by the process that drives."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from histodiff.artifacts import Artifact, Draft
from histodiff.cluster.site import Site
from histodiff.latents import (
    ChannelStatistics,
    LatentStore,
    PowerScaling,
    SlabCache,
    Whitening,
    mixture_whitening,
)
from histodiff.models.pretrained import absolute_source
from histodiff.pretraining.alignment import AlignmentSpec
from histodiff.pretraining.gaussian import fitted_gaussian, save_fit
from histodiff.pretraining.spec import PretrainSpec, PreviewQuality, StoreShare
from histodiff.storage import read_bytes, write_bytes
from histodiff.telemetry import HubAddress
from histodiff.workflows.gangs import hub_of_ranks
from histodiff.workflows.networks import preview_autoencoder, snapshot_path
from histodiff.workflows.pretrain.config import PretrainConfig
from histodiff.workflows.quality.previews import preview_measurement

_WHITENING = "scratch/whitening.json"
_GAUSSIAN = "scratch/gaussian.safetensors"


@dataclass(frozen=True)
class PretrainRun:
    """A training that has been begun, and what it is made from."""

    config: PretrainConfig
    site: Site
    draft: Draft
    stores: Mapping[str, Artifact]
    target: Artifact | None
    published: Whitening | None
    init_sha256: str | None


def pretrain_spec(run: PretrainRun, hub: HubAddress | None) -> PretrainSpec:
    """What every rank is given; one process makes it, as the whitening reads the stores."""
    config, site = run.config, run.site
    shares = zip(run.stores.values(), config.stores, strict=True)
    autoencoder = preview_autoencoder(run.stores, site) if config.preview_images else None
    whitening = _whitening(run)
    return PretrainSpec(
        run=f"{config.name}@{config.version}",
        artifact=str(run.draft.path),
        stores=tuple(StoreShare(str(store.path), part.weight) for store, part in shares),
        whitening=whitening,
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
        hub=hub_of_ranks(run.draft.path, hub),
        peak_flops=site.peak_flops,
        preview_images=config.preview_images or None,
        preview_autoencoder=autoencoder,
        preview_quality=_preview_quality(config, autoencoder, site),
        gaussian=_gaussian(run, whitening),
        alignment=_alignment(run),
    )


def _alignment(run: PretrainRun) -> AlignmentSpec | None:
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


def _whitening(run: PretrainRun) -> Whitening:
    """Whitening of the mixture: computed once and kept, so that a restart reads no store for it."""
    place = run.draft.path / _WHITENING
    if place.exists():
        return Whitening.from_json(read_bytes(place))
    found = run.published or _measured_whitening(run)
    write_bytes(place, found.to_json().encode())
    return found


def _gaussian(run: PretrainRun, whitening: Whitening) -> str | None:
    """Where the Gaussian that is started from lies: measured once and kept, as the whitening is."""
    config = run.config
    start = config.denoiser.gaussian_start
    if start is None:
        return None
    place = run.draft.path / _GAUSSIAN
    if not place.exists():
        fit = fitted_gaussian(
            [LatentStore.open(artifact.path) for artifact in run.stores.values()],
            [part.weight for part in config.stores],
            start=start,
            whitening=whitening,
            view=config.view,
            symmetries=config.symmetries,
            seed=config.seed,
        )
        save_fit(place, fit)
    return str(place)


def _measured_whitening(run: PretrainRun) -> Whitening:
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
