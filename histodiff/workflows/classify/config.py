"""Config of ``classify``."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from histodiff.artifacts import CommandConfig, Kind, Reference
from histodiff.classification.learning_set import JoinMixing, MixingConfig
from histodiff.classification.training import ClassifierTraining
from histodiff.config import Location
from histodiff.data_prep.index.dev_splits import DevSplit
from histodiff.data_prep.index.splits import LabelBudget
from histodiff.models.classifier import ClassifierConfig

ScoredSplit = Literal["val", "test"]


class ClassifyConfig(CommandConfig):
    """Config of ``classify``."""

    artifact_kind: ClassVar[Kind] = Kind.CLASSIFIERS

    patches: Annotated[Reference, Location()]
    """Labelled PatchIndex of the target."""
    budget: LabelBudget
    """How many real labels may be used."""
    dev_split: DevSplit | None = None
    """Divides the slides outside the test anew into training and validation; null leaves them. The
    same in every command that takes labels."""
    splits: tuple[ScoredSplit, ...] = Field(default=("val", "test"), min_length=1)
    """Splits that are scored. What is chosen is chosen on `val`: leave `test` out until then."""
    samples: Annotated[Reference | None, Location()] = None
    """SampleStore that the selection is of; null without a selection."""
    selection: Annotated[Reference | None, Location()] = None
    """Selection whose samples join the training; null is the control."""
    synthetic_ratio: float = Field(default=0.0, ge=0)
    """Samples added, as a multiple of the number of real images."""
    mixing: MixingConfig = JoinMixing(type="join")
    """How real and added images share the batches."""
    backbone: ClassifierConfig
    """The network."""
    training: ClassifierTraining
    """How it is trained."""
    positive: str | None = None
    """Class of sensitivity and specificity; by default the last of two, else the classes' mean."""
    bootstrap: int = Field(default=1000, ge=1)
    """Replicates of the bootstrap over slides."""
    eval_batch: int = Field(default=64, ge=1)
    """Images per forward pass where no gradient is needed."""
    threads: int = Field(ge=1)
    """Torch threads; part of the identity, as results on a CPU depend on it."""
    seed: int
    """Decides the labelled subset, the first weights, and every draw."""

    @model_validator(mode="after")
    def _splits_are_distinct(self) -> "ClassifyConfig":
        if len(set(self.splits)) < len(self.splits):
            raise ValueError(f"splits {list(self.splits)} repeat; name each split once")
        return self

    @model_validator(mode="after")
    def _selection_is_whole(self) -> "ClassifyConfig":
        given = [self.selection is not None, self.samples is not None, self.synthetic_ratio > 0]
        if any(given) and not all(given):
            raise ValueError(
                "give `selection`, `samples` and a `synthetic_ratio` above 0 together, or none of"
                " them for the control on real images"
            )
        return self

    def inputs(self) -> dict[str, Reference]:
        found = {"patches": self.patches.as_kind(Kind.PATCHES)}
        if self.samples is not None and self.selection is not None:
            found["samples"] = self.samples.as_kind(Kind.SAMPLES)
            found["selection"] = self.selection.as_kind(Kind.SELECTIONS)
        return found
