"""The config of ``pretrain``: what is trained, on which latents, towards what."""

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from histodiff.artifacts import CommandConfig, Kind, Reference
from histodiff.config import Config, Location
from histodiff.latents import UNIT_VARIANCE, ScalingConfig, View
from histodiff.models.denoiser import DenoiserConfig
from histodiff.models.pretrained import UNetSource
from histodiff.pretraining.alignment import AlignmentConfig
from histodiff.pretraining.spec import ValidationConfig
from histodiff.runtime.symmetries import Symmetries
from histodiff.training import TrainConfig
from histodiff.workflows.quality.previews import PreviewQualityConfig

TARGET = "alignment.target.denoiser"
"""Key of the denoiser that is aligned with, among the inputs."""


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
        return {**stores, TARGET: self.alignment.target.denoiser.as_kind(Kind.DENOISERS)}
