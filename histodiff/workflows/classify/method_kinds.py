"""What is trained, by ``type``: a network, or a linear classifier of features that are given."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from histodiff.artifacts import Kind, Reference
from histodiff.classification.self_supervised import ContrastiveTraining
from histodiff.config import Config, Location
from histodiff.models.denoiser import LAST

DENOISER, AUTOENCODER = "method.denoiser", "method.autoencoder"
UNLABELLED, ENCODER = "method.pool", "method.encoder"
"""Keys of inputs."""


class ScratchTuning(Config):
    """All weights, from random ones."""

    type: Literal["scratch"]


class FullTuning(Config):
    """All weights, from those that `backbone.pretrained` names."""

    type: Literal["full"]


class LinearTuning(Config):
    """A linear head on the frozen backbone, with the weights that `backbone.pretrained` names."""

    type: Literal["linear"]


TuningConfig = Annotated[ScratchTuning | FullTuning | LinearTuning, Field(discriminator="type")]


class NetworkMethod(Config):
    """A timm backbone, by the blocks `backbone` and `training`."""

    type: Literal["network"]
    tuning: TuningConfig | None = None
    """Which weights are trained, from which: `scratch`, `full` or `linear`; null is `full` where
    weights are named, else `scratch`."""


class LinearMethod(Config):
    """Logistic regression on features of the images as they are."""

    inverse_penalty: float = Field(default=1.0, gt=0)
    """One over the weight of the squared norm: `C` of scikit-learn, on standardised features."""
    class_balanced: bool = True
    """Every class counts the same, however many labels it has."""


class ColourHistogramMethod(LinearMethod):
    """The baseline that knows nothing of tissue: how often each colour occurs."""

    type: Literal["colour_histogram"]
    bins: int = Field(default=16, ge=2, le=256)
    """Bins of red, of green and of blue."""


class DenoiserFeaturesMethod(LinearMethod):
    """What pre-training buys without sampling: features of a frozen denoiser."""

    type: Literal["denoiser_features"]
    denoiser: Annotated[Reference, Location()]
    """Denoiser."""
    snapshot: str = LAST
    """Its EMA snapshot."""
    autoencoder: Annotated[Reference, Location()]
    """Autoencoder whose encoder it belongs to."""
    layers: tuple[str, ...] = Field(min_length=1)
    """Layers of its network whose means and deviations over positions are taken."""
    sigmas: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    """Noise levels, in units of whitened latents; the same noise for every image."""


class SelfSupervisedMethod(LinearMethod):
    """What unlabelled patches buy without a generator: a linear head on a self-supervised network.

    It is trained here, by `pretraining` and the block `backbone`, or taken from `encoder`.
    """

    type: Literal["self_supervised"]
    encoder: Annotated[Reference | None, Location()] = None
    """Finished classifier of this method, whose network is taken and whose head, which knows its
    labels, is not: one network serves every budget and seed."""
    pool: Annotated[Reference | None, Location()] = None
    """PatchIndex whose training patches it learns from; null takes the target's, without a look at
    their labels."""
    candidates: int | None = Field(default=None, ge=2)
    """Patches it learns from at most, drawn by the seed; null takes all."""
    pretraining: ContrastiveTraining | None = None
    """How it learns; null with `encoder`."""

    @model_validator(mode="after")
    def _trained_or_taken(self) -> "SelfSupervisedMethod":
        if (self.encoder is None) == (self.pretraining is None):
            raise ValueError(
                "method self_supervised needs `pretraining`, or the `encoder` of a finished one,"
                " and not both"
            )
        if self.encoder is not None and (self.pool, self.candidates) != (None, None):
            raise ValueError(
                "method.encoder has learned already: take `pool` and `candidates` away"
            )
        return self


FeatureMethod = ColourHistogramMethod | DenoiserFeaturesMethod
MethodConfig = Annotated[
    NetworkMethod | FeatureMethod | SelfSupervisedMethod, Field(discriminator="type")
]


def method_inputs(method: MethodConfig) -> dict[str, Reference]:
    """Full addresses of what is read for it, by key."""
    match method:
        case DenoiserFeaturesMethod():
            return {
                DENOISER: method.denoiser.as_kind(Kind.DENOISERS),
                AUTOENCODER: method.autoencoder.as_kind(Kind.AUTOENCODERS),
            }
        case SelfSupervisedMethod(encoder=encoder) if encoder is not None:
            return {ENCODER: encoder.as_kind(Kind.CLASSIFIERS)}
        case SelfSupervisedMethod(pool=pool) if pool is not None:
            return {UNLABELLED: pool.as_kind(Kind.PATCHES)}
        case _:
            return {}
