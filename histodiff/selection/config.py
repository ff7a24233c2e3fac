"""Config of the rules, and the reasons they give."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from histodiff.artifacts import Reference
from histodiff.config import Config, Location
from histodiff.models.classifier import ClassifierConfig


class Reason(StrEnum):
    """Why a sample was accepted or rejected."""

    ACCEPTED = "ACCEPTED"
    OTHER_CENTROID = "OTHER_CENTROID"
    OVER_CAP = "OVER_CAP"
    NOT_DRAWN = "NOT_DRAWN"


class CentroidRule(Config):
    """Accept a sample whose nearest class centroid is its own; the nearest to it first."""

    type: Literal["centroid"]
    classifier: Annotated[Reference | None, Location()] = None
    """ClassifierRun on real images only, whose penultimate layer gives the features."""
    extractor: ClassifierConfig | None = None
    """A pretrained timm network as the extractor, instead of `classifier`."""
    max_per_class: int = Field(ge=1)
    """At most this many accepted per class."""

    @model_validator(mode="after")
    def _one_extractor(self) -> "CentroidRule":
        if (self.classifier is None) == (self.extractor is None):
            raise ValueError("give exactly one of `classifier` and `extractor`")
        return self


class RandomRule(Config):
    """Accept samples at random: the control of a selection."""

    type: Literal["random"]
    match: Annotated[Reference | None, Location()] = None
    """Selection whose accepted counts per class are matched."""
    max_per_class: int | None = Field(default=None, ge=1)
    """At most this many per class; all of them by default."""


RuleConfig = Annotated[CentroidRule | RandomRule, Field(discriminator="type")]
