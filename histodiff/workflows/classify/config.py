"""Config of ``classify``."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from histodiff.artifacts import CommandConfig, Kind, Reference
from histodiff.classification.learning_set import JoinMixing, MixingConfig
from histodiff.classification.training import ClassifierTraining, Tuned
from histodiff.config import Config, Location
from histodiff.data_prep.index.dev_splits import DevSplit
from histodiff.data_prep.index.splits import LabelBudget
from histodiff.models.classifier import ClassifierConfig, NoWeights
from histodiff.workflows.classify.additions import AddedConfig, AddedSamples, added_inputs
from histodiff.workflows.classify.method_kinds import (
    LinearTuning,
    MethodConfig,
    NetworkMethod,
    ScratchTuning,
    SelfSupervisedMethod,
    method_inputs,
)

ScoredSplit = Literal["val", "test"]


class CalibrationConfig(Config):
    """A temperature of the probabilities, from labelled patches that a classifier did not see."""

    folds: int = Field(default=4, ge=2)
    """Parts of the labelled patches, by patient, that are held out in turn."""


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
    added: AddedConfig | None = None
    """What joins the labelled patches: `samples`, `pseudo_labels`, `retrieval` or `stand_ins`; null
    is the control."""
    samples: Annotated[Reference | None, Location()] = None
    """With ``selection``: the same as `added: {type: samples}`."""
    selection: Annotated[Reference | None, Location()] = None
    """Selection whose samples join the training."""
    synthetic_ratio: float = Field(default=0.0, ge=0)
    """Images added, of whatever kind, as a multiple of the number of labelled ones."""
    mixing: MixingConfig = JoinMixing(type="join")
    """How real and added images share the batches."""
    method: MethodConfig = NetworkMethod(type="network")
    """What is trained: `network`, or a linear classifier of features: `colour_histogram`,
    `denoiser_features`, `self_supervised`."""
    backbone: ClassifierConfig | None = None
    """The network that `network` and `self_supervised` train; null for whatever trains none."""
    training: ClassifierTraining | None = None
    """How the method `network` is trained; null for others."""
    calibration: CalibrationConfig | None = None
    """A temperature for the probabilities; null leaves them. Needed of a teacher."""
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
    def _addition_is_whole(self) -> "ClassifyConfig":
        pair = [self.selection is not None, self.samples is not None]
        if self.added is not None and any(pair):
            raise ValueError("give `added`, or `samples` and `selection`, not both")
        given = [*pair, self.synthetic_ratio > 0] if any(pair) else [
            self.added is not None, self.synthetic_ratio > 0
        ]  # fmt: skip
        if any(given) and not all(given):
            raise ValueError(
                "give `added` (or `selection` and `samples`) and a `synthetic_ratio` above 0"
                " together, or none of them for the control on real images"
            )
        if self.calibration is not None and self.addition is not None:
            raise ValueError(
                "`calibration` is for classifiers of labelled patches alone: added images may know"
                " the labels that are held out; take `calibration` or what is added away"
            )
        return self

    @model_validator(mode="after")
    def _method_is_whole(self) -> "ClassifyConfig":
        blocks = {"backbone": self.backbone, "training": self.training}
        match self.method:
            case NetworkMethod():
                wanted = {"backbone", "training"}
            case SelfSupervisedMethod(encoder=None):
                wanted = {"backbone"}
            case _:
                wanted = set()
        spare = [name for name, block in blocks.items() if block is not None and name not in wanted]
        if spare:
            raise ValueError(
                f"method {self.method.type} uses no `{'` and no `'.join(spare)}`: take"
                f" `{'`, `'.join(spare)}` away"
            )
        missing = [name for name, block in blocks.items() if block is None and name in wanted]
        if missing:
            raise ValueError(f"method {self.method.type} needs `{'` and `'.join(missing)}`")
        if not isinstance(self.method, NetworkMethod):
            return self
        tuning = self.method.tuning
        random = isinstance(self.networks_backbone.pretrained, NoWeights)
        if tuning is not None and isinstance(tuning, ScratchTuning) != random:
            raise ValueError(
                f"method.tuning {tuning.type} with backbone.pretrained"
                f" {self.networks_backbone.pretrained.type}: `scratch` starts from"
                " pretrained: {type: none}, `full` and `linear` from weights that it names"
            )
        return self

    @property
    def addition(self) -> AddedConfig | None:
        """What joins the labelled patches, in whichever way it was written."""
        if self.samples is None or self.selection is None:
            return self.added
        return AddedSamples(type="samples", samples=self.samples, selection=self.selection)

    @property
    def networks_backbone(self) -> ClassifierConfig:
        """The network, where the method is one."""
        assert self.backbone is not None
        return self.backbone

    @property
    def networks_training(self) -> ClassifierTraining:
        """Its training, where the method is one."""
        assert self.training is not None
        return self.training

    @property
    def tuned(self) -> Tuned:
        """Which weights of the network are trained."""
        assert isinstance(self.method, NetworkMethod)
        return Tuned.HEAD if isinstance(self.method.tuning, LinearTuning) else Tuned.ALL

    def inputs(self) -> dict[str, Reference]:
        return {
            "patches": self.patches.as_kind(Kind.PATCHES),
            **added_inputs(self.addition),
            **method_inputs(self.method),
        }
