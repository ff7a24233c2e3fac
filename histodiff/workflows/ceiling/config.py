"""Config of ``ceiling``."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from histodiff.artifacts import CommandConfig, Kind, Reference
from histodiff.classification.stand_ins import PosteriorView, StandIn
from histodiff.classification.training import ClassifierTraining
from histodiff.config import Location
from histodiff.data_prep.index.splits import LabelBudget
from histodiff.models.classifier import ClassifierConfig


class CeilingConfig(CommandConfig):
    """Config of ``ceiling``: budget, network and training are those of the `classify` to come."""

    artifact_kind: ClassVar[Kind] = Kind.CEILINGS

    patches: Annotated[Reference, Location()]
    """Labelled PatchIndex of the target."""
    autoencoders: Annotated[tuple[Reference, ...], Location()] = ()
    """Autoencoders that are compared; none measures the headroom alone."""
    posterior: PosteriorView
    """What of the posterior of a patch is decoded: its `mean`, or a `draw`."""
    budget: LabelBudget
    """How many real labels may be used."""
    stand_in: StandIn | Literal["auto"] = "auto"
    """Real patches that stand for perfect samples: of `other_slides` than the labelled ones,
    `other_patches` of any training slide, or `cross_fitted` ones of the budget itself. `auto` takes
    the first for which there are true labels, and says which."""
    folds: int = Field(default=2, ge=2)
    """Parts of the budget, where it is cross-fitted."""
    synthetic_ratio: float = Field(gt=0)
    """Patches that join, as a multiple of the number of real images; as in `classify`."""
    backbone: ClassifierConfig
    """The network."""
    training: ClassifierTraining
    """How it is trained, in every arm alike."""
    split: Literal["val", "test"] = "val"
    """Labelled patches that classifiers are scored on. Test slides are for the final result."""
    metric: Literal["balanced_accuracy", "auc"] = "balanced_accuracy"
    """Metric of the conclusion; chosen before looking at results."""
    level: float = Field(default=0.95, gt=0.5, lt=1)
    """Level of the intervals."""
    batch: int = Field(default=64, ge=1)
    """Images per pass of the autoencoder, and of a classifier when it is scored."""
    threads: int = Field(ge=1)
    """Torch threads; part of the identity, as results on a CPU depend on it."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Each draws labels, patches that join, first weights and batches; three at least give a
    verdict."""

    @model_validator(mode="after")
    def _each_once(self) -> "CeilingConfig":
        for field in ("seeds", "autoencoders"):
            given = getattr(self, field)
            if len(set(given)) < len(given):
                raise ValueError(f"{field}={list(given)}: name each once")
        return self

    def inputs(self) -> dict[str, Reference]:
        return {
            "patches": self.patches.as_kind(Kind.PATCHES),
            **{
                f"autoencoders.{number}": reference.as_kind(Kind.AUTOENCODERS)
                for number, reference in enumerate(self.autoencoders)
            },
        }
