"""By which rule a denoiser's whitening scales the channels of its latents: config, by tag."""

from typing import Annotated, Literal

from pydantic import Field

from histodiff.config import Config


class PowerScaling(Config):
    """Every channel is divided by ``k * std ** power``; k makes the mean variance 1.

    At power 1 every channel has unit variance; at 0 the channels keep their proportions, so that
    coarse structure weighs more in the training loss than fine detail.
    """

    type: Literal["power"]
    power: float = Field(ge=0)
    """Power of a channel's standard deviation: 1 is unit variance, 0 one scale for all."""


class PublishedScaling(Config):
    """Mean and scale that the authors of the imported autoencoder published with it."""

    type: Literal["published"]


ScalingConfig = Annotated[PowerScaling | PublishedScaling, Field(discriminator="type")]

UNIT_VARIANCE = PowerScaling(type="power", power=1.0)


def scaling_rule(scaling: ScalingConfig) -> str:
    """The rule in words, as a snapshot records it: ``power 0.5``, ``published``."""
    match scaling:
        case PowerScaling():
            return f"power {scaling.power:g}"
        case PublishedScaling():
            return "published"
