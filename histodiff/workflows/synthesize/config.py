"""What ``synthesize`` is told."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from histodiff.artifacts import Artifact, CommandConfig, Kind, Reference
from histodiff.config import Config, Location
from histodiff.data_prep.index.dev_splits import DevSplit
from histodiff.data_prep.index.splits import LabelBudget
from histodiff.diffusion import AutoguidanceConfig, GuidanceConfig, SamplerConfig, ScheduleConfig
from histodiff.models.denoiser import LAST
from histodiff.synthesis.unguided import NO_GUIDANCE
from histodiff.workflows.quality.config import QualityConfig

QUALITY = "quality."
"""What keys of inputs of the block ``quality`` begin with."""
WEAK, VARIED = "autoguidance.denoiser", "variation.latents"
STAINS = "variation.stains.latents"
"""Keys of the inputs of these blocks."""


class WeakDenoiserConfig(AutoguidanceConfig):
    """The weaker denoiser of autoguidance, and how samples are driven away from it."""

    denoiser: Annotated[Reference, Location()] | None = None
    """Another denoiser of the same latent stores; null takes a snapshot of the denoiser itself."""
    snapshot: str = LAST
    """Its EMA snapshot, such as ``images-<count>`` after fewer images."""


class StainsConfig(Config):
    """Stains of unlabelled slides that labelled latents are given before they are noised."""

    latents: Annotated[Reference, Location()]
    """LatentStore of those slides, of the denoiser's encoder; its labels are not looked at."""
    splits: tuple[str, ...] = Field(default=("train",), min_length=1)
    """Splits whose slides give their stain."""
    num_slides: int = Field(default=64, ge=1)
    """Slides that are drawn from them, at most."""
    rows_per_slide: int = Field(default=64, ge=1)
    """Patches that the statistics of a slide are taken from, at most."""
    min_rows: int = Field(default=4, ge=1)
    """A slide with fewer patches gives nothing."""
    replaced: Literal["slide", "patch"] = "slide"
    """Whose statistics are replaced: those of the labelled slide, so that differences between its
    patches stay, or those of the single patch."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the samples that are given another stain."""

    @model_validator(mode="after")
    def _enough_rows(self) -> "StainsConfig":
        if self.min_rows > self.rows_per_slide:
            raise ValueError(
                f"stains: min_rows={self.min_rows} must not exceed"
                f" rows_per_slide={self.rows_per_slide}; raise the latter"
            )
        return self


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
    stains: StainsConfig | None = None
    """Gives latents the channel statistics of unlabelled slides first; null leaves their own."""


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
        varied = {} if self.variation is None else _stores_of(self.variation)
        weak = {} if other is None else {WEAK: other.as_kind(Kind.DENOISERS)}
        return {
            **guide,
            **varied,
            "denoiser": self.denoiser.as_kind(Kind.DENOISERS),
            **weak,
            "autoencoder": self.autoencoder.as_kind(Kind.AUTOENCODERS),
            **{f"{QUALITY}{key}": address for key, address in compared.items()},
        }

    @property
    def steering(self) -> GuidanceConfig:
        """How samples are steered: not at all without a guide."""
        return self.guidance or NO_GUIDANCE

    def samples_in_all(self, classes: Sequence[str]) -> int:
        """Samples that are drawn with a guide of these classes, or without one."""
        return self.num_samples or (self.per_class or 0) * len(classes)


def _stores_of(variation: VariationConfig) -> dict[str, Reference]:
    stains = variation.stains
    donors = {} if stains is None else {STAINS: stains.latents.as_kind(Kind.LATENTS)}
    return {VARIED: variation.latents.as_kind(Kind.LATENTS), **donors}


def weak_input(inputs: Mapping[str, Artifact]) -> Artifact:
    """Of a config's inputs, the one that holds the weaker denoiser of autoguidance."""
    return inputs.get(WEAK, inputs["denoiser"])
