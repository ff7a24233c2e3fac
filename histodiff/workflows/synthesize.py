"""``synthesize``: sampling, guided or not -> images with full provenance per image.

Any autoencoder with the denoiser's encoder can decode. Shards of the SampleStore are written once
each and skipped when they are there, so that the same command continues an interrupted one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field, model_validator

from histodiff.artifacts import (
    Artifact,
    CommandConfig,
    Draft,
    Kind,
    Reference,
    begin,
    open_artifact,
)
from histodiff.cluster.site import Site
from histodiff.config import Config, Location
from histodiff.data_prep.index.dev_splits import DevSplit
from histodiff.data_prep.index.splits import LabelBudget
from histodiff.diffusion import (
    AutoguidanceConfig,
    GuidanceConfig,
    Guide,
    SamplerConfig,
    ScheduleConfig,
    noise_levels,
)
from histodiff.errors import ConfigError
from histodiff.guidance.kinds import load_guide
from histodiff.guidance.labelled import read_labelled
from histodiff.latents import LatentStore, Whitening
from histodiff.models.autoencoder import Autoencoder
from histodiff.models.denoiser import LAST, Denoiser, LoadedDenoiser
from histodiff.runtime import run_in_process
from histodiff.runtime.threads import use_threads
from histodiff.samples import SampleStore, finish_store, finished_shards
from histodiff.synthesis.plan import num_shards, shard_samples
from histodiff.synthesis.sampling import Drawing, Networks
from histodiff.synthesis.unguided import NO_GUIDANCE, NO_GUIDE, UNCONDITIONAL_CLASSES, Unguided
from histodiff.synthesis.variation import Variation
from histodiff.synthesis.worker import StorePlan, Synthesizer
from histodiff.telemetry import progress
from histodiff.workflows.guide import SIGMAS
from histodiff.workflows.labels import (
    LABELS_SHA256,
    labels_of_store,
    opened_store,
    require_same_labels,
)
from histodiff.workflows.networks import (
    ENCODER_SHA256,
    drawn_px,
    open_autoencoder,
    open_denoiser,
    require_same_encoder,
    require_snapshot,
)
from histodiff.workflows.quality.config import QualityConfig
from histodiff.workflows.quality.measuring import Measured, Sources, measure_store, open_sources

_QUALITY = "quality."
_WEAK = "autoguidance.denoiser"
_VARIED = "variation.latents"


class WeakDenoiserConfig(AutoguidanceConfig):
    """The weaker denoiser of autoguidance, and how samples are driven away from it."""

    denoiser: Annotated[Reference, Location()] | None = None
    """Another denoiser of the same latent stores; null takes a snapshot of the denoiser itself."""
    snapshot: str = LAST
    """Its EMA snapshot, such as ``images-<count>`` after fewer images."""


class VariationConfig(Config):
    """Labelled latents that samples vary instead of starting from noise."""

    latents: Annotated[Reference, Location()]
    """LatentStore of the labelled target, of the denoiser's encoder."""
    budget: LabelBudget
    """How many labels; with ``seed`` decides which training latents are varied."""
    dev_split: DevSplit | None = None
    """Divides the slides outside the test anew into training and validation; as in `classify`."""
    sigmas: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    """Noise levels that latents are noised to, in turns; the higher, the more changes."""


class SynthesizeConfig(CommandConfig):
    """Config of ``synthesize``."""

    artifact_kind: ClassVar[Kind] = Kind.SAMPLES

    guide: Annotated[Reference | None, Location()]
    """Guide that steers; its classes are drawn. null draws what the denoiser draws by itself."""
    denoiser: Annotated[Reference, Location()]
    """Denoiser."""
    snapshot: str = LAST
    """Its EMA snapshot: ``last``; ``last-<half-life>`` for another half-life than the first, or
    ``images-<count>`` for an earlier one, where ``pretrain`` kept them."""
    autoencoder: Annotated[Reference, Location()]
    """Autoencoder that decodes; must have the denoiser's encoder."""
    per_class: int | None = Field(default=None, ge=1)
    """Samples of each class of the guide, or of the latents that are varied; null without both."""
    num_samples: int | None = Field(default=None, ge=1)
    """Samples in all, where no class is asked for; null otherwise."""
    guidance: GuidanceConfig | None = None
    """How strongly, and at which noise levels, the guide steers; null without one."""
    variation: VariationConfig | None = None
    """Labelled latents that samples vary; null starts from noise. Needs no guide."""
    autoguidance: WeakDenoiserConfig | None = None
    """Drives samples away from a weaker denoiser (Karras et al. 2024); with a guide or without."""
    sampler: SamplerConfig
    """Sampler."""
    schedule: ScheduleConfig
    """Noise levels that the sampler visits."""
    batch: int = Field(ge=1)
    """Samples drawn at a time; part of the identity, as rounding depends on it."""
    shard_size: int = Field(default=256, ge=1)
    """Samples of one shard: the unit of work and of resumption."""
    threads: int = Field(ge=1)
    """Torch threads; part of the identity, as results on a CPU depend on it."""
    seed: int
    """With the sample's number, decides its noise."""
    quality: QualityConfig | None = None
    """How good the samples are, measured against real patches; null measures nothing."""

    @model_validator(mode="after")
    def _guided_or_not(self) -> "SynthesizeConfig":
        if (self.guide is None) != (self.guidance is None):
            raise ValueError("`guide` and `guidance` belong together: give both, or neither")
        labelled = self.guide is not None or self.variation is not None
        wanted, other = ("per_class", "num_samples") if labelled else ("num_samples", "per_class")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            what = "with a guide or a variation" if labelled else "without a guide (guide: null)"
            raise ValueError(f"{what} give `{wanted}`, and no `{other}`")
        weak = self.autoguidance
        if weak is not None and weak.denoiser is None and weak.snapshot == self.snapshot:
            raise ValueError(
                "autoguidance needs a weaker denoiser: name an earlier snapshot of this one"
                " (autoguidance.snapshot: images-<count>), or another denoiser"
            )
        return self

    def inputs(self) -> dict[str, Reference]:
        guide = {} if self.guide is None else {"guide": self.guide.as_kind(Kind.GUIDES)}
        compared = self.quality.inputs() if self.quality else {}
        other = self.autoguidance.denoiser if self.autoguidance else None
        varied = {_VARIED: self.variation.latents.as_kind(Kind.LATENTS)} if self.variation else {}
        weak = {} if other is None else {_WEAK: other.as_kind(Kind.DENOISERS)}
        return {
            **guide,
            **varied,
            "denoiser": self.denoiser.as_kind(Kind.DENOISERS),
            **weak,
            "autoencoder": self.autoencoder.as_kind(Kind.AUTOENCODERS),
            **{f"quality.{key}": address for key, address in compared.items()},
        }

    @property
    def steering(self) -> GuidanceConfig:
        """How samples are steered: not at all without a guide."""
        return self.guidance or NO_GUIDANCE

    def samples_in_all(self, classes: Sequence[str]) -> int:
        """Samples that are drawn with a guide of these classes, or without one."""
        return self.num_samples or (self.per_class or 0) * len(classes)


def synthesize(config: SynthesizeConfig, site: Site) -> Artifact:
    """Draws the samples that ``config`` describes.

    Raises:
        ArtifactError: Denoiser and autoencoder have different encoders.
        ConfigError: The guide was trained for another denoiser, or the denoiser has no such
            snapshot.
    """
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    require_same_encoder(inputs["denoiser"], inputs["autoencoder"])
    if "guide" in inputs:
        _require_guide_of(inputs["guide"], inputs["denoiser"])
        _require_known_noise(inputs["guide"], config.steering)
    require_snapshot(inputs["denoiser"], config.snapshot)
    if config.autoguidance is not None:
        require_snapshot(_weak_input(inputs), config.autoguidance.snapshot)
        require_same_encoder(inputs["denoiser"], _weak_input(inputs))
    labels = _labels_sha256(config, inputs)
    sources = _sources(config, inputs)
    draft = begin(root, config, inputs=inputs, inventory={"device_class": site.device})
    if draft.finished is not None:
        return draft.finished
    with draft:
        use_threads(config.threads)
        guide = _guide(inputs, site.device)
        denoiser = open_denoiser(inputs["denoiser"], device=site.device, snapshot=config.snapshot)
        autoencoder = open_autoencoder(inputs["autoencoder"], device=site.device)
        plan = _store_plan(config, draft, inputs, guide, autoencoder)
        drawing = Drawing(
            noise_levels(config.schedule, denoiser.denoiser.preconditioning),
            config.sampler, config.steering, config.autoguidance,
            _variation(config, inputs, denoiser), config.seed,
        )  # fmt: skip
        weak = _weak_denoiser(config, inputs, denoiser, site.device)
        _draw_missing(plan, drawing, _networks(guide, denoiser, weak, autoencoder, site.device))
        header = finish_store(
            draft.path, finished_shards(draft.path).values(), classes=guide.classes,
            image_px=denoiser.latent_shape[1] * autoencoder.downsampling, mpp=denoiser.mpp,
            encoder_sha256=autoencoder.encoder_sha256, decoder_sha256=autoencoder.decoder_sha256,
        )  # fmt: skip
        measured = _measured(config, draft, inputs, sources, site.device)
        return draft.finish(
            {
                "samples": plan.num_samples,
                "per_class": config.per_class,
                "classes": list(guide.classes),
                "image_px": header.image_px,
                ENCODER_SHA256: header.encoder_sha256,
                "decoder_sha256": header.decoder_sha256,
                LABELS_SHA256: labels,
                **measured.contents,
            },
            failed=measured.failed,
        )


def estimate(config: SynthesizeConfig, site: Site) -> dict[str, float | int | str]:
    """Samples, shards and calls of the denoiser."""
    addresses = config.inputs()
    classes: tuple[str, ...] = UNCONDITIONAL_CLASSES
    if "guide" in addresses:
        guide = open_artifact(site.storage_root, addresses["guide"])
        classes = tuple(guide.manifest.contents["classes"])
    elif _VARIED in addresses:
        varied = open_artifact(site.storage_root, addresses[_VARIED])
        classes = LatentStore.open(varied.path).classes
    samples = config.samples_in_all(classes)
    networks = 1 if config.autoguidance is None else 2
    calls = networks * config.schedule.steps * (2 if config.sampler.type.startswith("heun") else 1)
    return {
        "samples": samples,
        "shards": num_shards(samples, shard_size=config.shard_size),
        "denoiser_calls_per_sample": calls,
    }


def _of_quality(inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Inputs of the block ``quality``, by their key below it."""
    return {
        key.removeprefix(_QUALITY): artifact
        for key, artifact in inputs.items()
        if key.startswith(_QUALITY)
    }


def _sources(config: SynthesizeConfig, inputs: Mapping[str, Artifact]) -> Sources | None:
    """Patches that the samples will be measured against; None where nothing is measured."""
    if config.quality is None:
        return None
    image_px = drawn_px(inputs["denoiser"])
    return open_sources(config.quality, _of_quality(inputs), image_px=image_px, seed=config.seed)


def _measured(
    config: SynthesizeConfig,
    draft: Draft,
    inputs: Mapping[str, Artifact],
    sources: Sources | None,
    device: str,
) -> Measured:
    if config.quality is None or sources is None:
        return Measured({}, ())
    store = SampleStore.open(draft.path)
    return measure_store(
        config.quality, _of_quality(inputs), store, sources,
        path=draft.path, seed=config.seed, device=device,
    )  # fmt: skip


def _labels_sha256(config: SynthesizeConfig, inputs: Mapping[str, Artifact]) -> str | None:
    """Which labels the samples know; None where they know none.

    Raises:
        ConfigError: What is varied has other labels than the guide, or lacks a class.
    """
    if config.variation is None:
        known = inputs["guide"].manifest.contents[LABELS_SHA256] if "guide" in inputs else None
        return known if known is None else str(known)
    require_same_encoder(inputs["denoiser"], inputs[_VARIED])
    store = opened_store(inputs[_VARIED], dev_split=config.variation.dev_split, seed=config.seed)
    labels = labels_of_store(store, budget=config.variation.budget, seed=config.seed)
    if "guide" in inputs:
        require_same_labels(labels.sha256, inputs["guide"], what="guide")
    return labels.sha256


def _guide(inputs: Mapping[str, Artifact], device: str) -> Guide:
    if "guide" in inputs:

        def denoiser(snapshot: str) -> Denoiser:
            return open_denoiser(inputs["denoiser"], device=device, snapshot=snapshot).denoiser

        return load_guide(inputs["guide"].path, denoiser, device)
    if _VARIED in inputs:
        return Unguided(LatentStore.open(inputs[_VARIED].path).classes)
    return Unguided()


def _variation(
    config: SynthesizeConfig, inputs: Mapping[str, Artifact], denoiser: LoadedDenoiser
) -> Variation | None:
    if config.variation is None:
        return None
    store = opened_store(inputs[_VARIED], dev_split=config.variation.dev_split, seed=config.seed)
    labels = labels_of_store(store, budget=config.variation.budget, seed=config.seed)
    whitening = Whitening(denoiser.whitening_mean, denoiser.whitening_scale)
    latents = read_labelled(
        store, labels.rows, whitening=whitening, classes=store.classes, view=denoiser.info.view
    )
    return Variation(
        latents.mean_NCHW, latents.std_NCHW, latents.target_N, latents.patch_N,
        tuple(config.variation.sigmas),
    )  # fmt: skip


def _require_guide_of(guide: Artifact, denoiser: Artifact) -> None:
    known = guide.manifest.inputs.get(str(denoiser.reference))
    if known != denoiser.manifest.fingerprint:
        raise ConfigError(
            f"guide {guide.reference} was not trained for {denoiser.reference}, whose whitening and"
            " noise levels it needs; train a guide for that denoiser"
        )


def _require_known_noise(guide: Artifact, guidance: GuidanceConfig) -> None:
    """Checks that the guide steers only where it was trained."""
    low, high = guidance.sigma_interval
    least, most = guide.manifest.contents.get(SIGMAS, (0.0, math.inf))  # guides of before say none
    if guidance.scale > 0 and (low < least or high > most):
        raise ConfigError(
            f"guidance.sigma_interval [{low:g}, {high:g}]: guide {guide.reference} was trained on"
            f" noise levels from {least:g} to {most:g}; stay inside, or train it on more"
        )


def _store_plan(
    config: SynthesizeConfig,
    draft: Draft,
    inputs: dict[str, Artifact],
    guide: Guide,
    autoencoder: Autoencoder,
) -> StorePlan:
    how = {
        "snapshot": config.snapshot,
        "sampler": config.sampler.model_dump(mode="json"),
        "schedule": config.schedule.model_dump(mode="json"),
        "sigma_interval": list(config.steering.sigma_interval),
    }
    if config.variation is not None:
        how["variation"] = inputs[_VARIED].manifest.content_sha256
    if config.autoguidance is not None:
        how["autoguidance"] = config.autoguidance.model_dump(mode="json")
    return StorePlan(
        path=draft.path,
        classes=guide.classes,
        num_samples=config.samples_in_all(guide.classes),
        shard_size=config.shard_size,
        batch=config.batch,
        provenance={
            "seed": config.seed,
            "guide": inputs["guide"].manifest.content_sha256 if "guide" in inputs else NO_GUIDE,
            "guidance_scale": config.steering.scale,
            "sampler": json.dumps(how, sort_keys=True),
            "denoiser": inputs["denoiser"].manifest.content_sha256,
            "decoder_sha256": autoencoder.decoder_sha256,
        },
    )


def _weak_input(inputs: Mapping[str, Artifact]) -> Artifact:
    return inputs.get(_WEAK, inputs["denoiser"])


def _weak_denoiser(
    config: SynthesizeConfig, inputs: Mapping[str, Artifact], strong: LoadedDenoiser, device: str
) -> LoadedDenoiser | None:
    if config.autoguidance is None:
        return None
    artifact = _weak_input(inputs)
    weak = open_denoiser(artifact, device=device, snapshot=config.autoguidance.snapshot)
    pairs = (
        (weak.whitening_mean, strong.whitening_mean), (weak.whitening_scale, strong.whitening_scale)
    )  # fmt: skip
    if weak.latent_shape != strong.latent_shape or not all(
        torch.equal(torch.as_tensor(one), torch.as_tensor(other)) for one, other in pairs
    ):
        raise ConfigError(
            f"autoguidance: {artifact.reference} whitens latents otherwise than"
            f" {inputs['denoiser'].reference}; take one that was trained on the same stores with"
            " the same scaling"
        )
    return weak


def _networks(
    guide: Guide,
    denoiser: LoadedDenoiser,
    weak: LoadedDenoiser | None,
    autoencoder: Autoencoder,
    device: str,
) -> Networks:
    whitening = Whitening(denoiser.whitening_mean, denoiser.whitening_scale)
    return Networks(
        denoise=denoiser.denoiser,
        weak=None if weak is None else weak.denoiser,
        guide=guide,
        decode=lambda latents: autoencoder.decode(whitening.invert(latents)),
        latent_shape=denoiser.latent_shape,
        device=device,
    )


def _draw_missing(plan: StorePlan, drawing: Drawing, networks: Networks) -> None:
    done = finished_shards(plan.path)
    shards = range(num_shards(plan.num_samples, shard_size=plan.shard_size))
    sizes = {
        shard: len(shard_samples(shard, num_samples=plan.num_samples, shard_size=plan.shard_size))
        for shard in shards
    }
    already = sum(sizes[shard] for shard in done)
    with progress("synthesize", total=plan.num_samples, unit="samples", already=already) as bar:
        worker = Synthesizer(plan, networks=networks, drawing=drawing, bar=bar)
        waiting = [shard for shard in shards if shard not in done]
        for _ in run_in_process(lambda: worker, waiting):
            pass
