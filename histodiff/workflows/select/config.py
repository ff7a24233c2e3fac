"""Config of ``select``: the rule, which may be one or all of several criteria."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from histodiff.artifacts import CommandConfig, Kind, Reference
from histodiff.classification.training import ClassifierTraining
from histodiff.config import Config, Location
from histodiff.data_prep.index.dev_splits import DevSplit
from histodiff.data_prep.index.splits import LabelBudget
from histodiff.errors import ConfigError
from histodiff.features.kinds import ExtractorConfig, extractor_inputs
from histodiff.models.classifier import ClassifierConfig
from histodiff.selection.config import (
    AblationRule,
    AgreementRule,
    CentroidRule,
    ClusterQuota,
    CopiesRule,
    Criterion,
    HeldOut,
    Oversampling,
    RandomRule,
    RealismRule,
    SourceQuota,
    TrainedExtractor,
)
from histodiff.workflows.synthesize.config import SynthesizeConfig

RANDOM = "random"
"""Value of ``rank_by`` that takes what is left at random."""


class LinearModel(Config):
    """Logistic regression on frozen features that no label was used for."""

    type: Literal["linear"]
    extractor: TrainedExtractor
    """Network whose features are used: `timm`, `denoiser`, or a `classifier` of the method
    `self_supervised`, whose network knows no label."""
    inverse_penalty: float = Field(default=0.1, gt=0)
    """One over the weight of the penalty: `C` of scikit-learn. Features are standardised."""


class NetworkModel(Config):
    """A classifier that is trained anew for every fold."""

    type: Literal["network"]
    backbone: ClassifierConfig
    """The network."""
    training: ClassifierTraining
    """How it is trained."""


class ConfidenceRule(Criterion):
    """Models of the labels are sure of the class, judging by slides that they did not see.

    The labelled slides (patients) are dealt into folds, with a model of all but each. A sample that
    varies a labelled patch is judged by the model without its slide, any other by the mean of all.
    One temperature, fitted on the labels that were held out, calibrates them. Score: the
    probability of the class asked for.
    """

    type: Literal["confidence"]
    model: Annotated[LinearModel | NetworkModel, Field(discriminator="type")]
    """What judges: `linear` or `network`."""
    folds: int = Field(default=4, ge=2)
    """Folds, as far as every class has as many labelled slides."""
    min_probability: float = Field(default=0.0, ge=0, lt=1)
    """Least probability that is accepted."""
    best_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the samples of each class, the surest first, that is accepted: however unsure models
    of few labels are, and rightly say that they are, some samples are likelier than others."""


CriterionConfig = Annotated[
    AgreementRule | ConfidenceRule | RealismRule | CopiesRule | ClusterQuota | SourceQuota,
    Field(discriminator="type"),
]
"""One of the criteria of ``all_of``."""


class AllOfRule(Config):
    """Accept what passes all criteria, the highest score first, as far as quotas allow."""

    type: Literal["all_of"]
    rules: tuple[CriterionConfig, ...] = Field(min_length=1)
    """The criteria; the first that a sample fails is its reason. Quotas come after all others,
    wherever they stand."""
    without: tuple[str, ...] = ()
    """Names of criteria that reject nothing, to see what each does. Their scores are stored all the
    same, and may still decide the order."""
    rank_by: str
    """Name of the criterion whose score decides the order, or `random`."""
    max_per_class: int = Field(ge=1)
    """At most this many accepted per class."""
    oversampling: Oversampling = 3.0
    """Samples of each class that there must be, as a multiple of `max_per_class`: with fewer the
    order decides little. 0 asks for none."""
    held_out: HeldOut = HeldOut()
    """Real patches that `realism` and `copies` go by."""

    @model_validator(mode="after")
    def _names_fit(self) -> "AllOfRule":
        names = [name_of(rule) for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"rules {', '.join(twice)} stand twice; give one another `name`")
        unknown = sorted(set(self.without) - set(names))
        if unknown:
            raise ValueError(
                f"without {', '.join(unknown)}: no rule has that name; the rules are"
                f" {', '.join(names)}"
            )
        scored = [
            name_of(rule) for rule in self.rules if not isinstance(rule, ClusterQuota | SourceQuota)
        ]
        if self.rank_by not in (*scored, RANDOM):
            raise ValueError(
                f"rank_by '{self.rank_by}': no rule with a score has that name; give one of"
                f" {', '.join((*scored, RANDOM))}"
            )
        return self


RuleConfig = Annotated[
    CentroidRule | RandomRule | AllOfRule | AblationRule, Field(discriminator="type")
]


def name_of(rule: Criterion) -> str:
    """Under which the scores of a criterion are stored."""
    return rule.name or str(rule.type)  # type: ignore[attr-defined]


def extractor_of(rule: CriterionConfig) -> tuple[str, ExtractorConfig] | None:
    """Where below a criterion its extractor stands, and the extractor; None where it has none."""
    match rule:
        case ConfidenceRule(model=LinearModel() as model):
            return "model.", model.extractor
        case AgreementRule() | RealismRule() | CopiesRule() | ClusterQuota():
            return "", rule.extractor
        case _:
            return None


class SelectConfig(CommandConfig):
    """Config of ``select``."""

    artifact_kind: ClassVar[Kind] = Kind.SELECTIONS

    samples: Annotated[Reference, Location()]
    """SampleStore to select from."""
    patches: Annotated[Reference, Location()]
    """Labelled PatchIndex of the target."""
    budget: LabelBudget
    """How many labels may be used; as for the guide."""
    dev_split: DevSplit | None = None
    """Divides the slides outside the test anew into training and validation; null leaves them. The
    same in every command that takes labels."""
    rule: RuleConfig
    """Which samples are accepted."""
    batch: int = Field(default=64, ge=1)
    """Images per forward pass of the extractor."""
    threads: int = Field(ge=1)
    """Torch threads; part of the identity, as results on a CPU depend on it."""
    seed: int
    """Decides the labelled subset, and whatever a rule draws."""

    def inputs(self) -> dict[str, Reference]:
        found = {
            "samples": self.samples.as_kind(Kind.SAMPLES),
            "patches": self.patches.as_kind(Kind.PATCHES),
        }
        match self.rule:
            case CentroidRule(classifier=Reference() as classifier):
                found["rule.classifier"] = classifier.as_kind(Kind.CLASSIFIERS)
            case RandomRule(match=Reference() as match_of):
                found["rule.match"] = match_of.as_kind(Kind.SELECTIONS)
            case AblationRule(selection=selection):
                found["rule.selection"] = selection.as_kind(Kind.SELECTIONS)
            case AllOfRule() as rule:
                found |= _inputs_of_all(rule)
        return found

    def check_planned(self, planned: Mapping[Reference, CommandConfig]) -> None:
        made = planned.get(self.samples.as_kind(Kind.SAMPLES))
        if isinstance(made, SynthesizeConfig) and made.per_class is not None:
            require_enough_drawn(self, {"each class": made.per_class})


def require_enough_drawn(config: SelectConfig, drawn: Mapping[str, int]) -> None:
    """Checks that the order can decide: far more samples than are taken.

    Args:
        config: The command's.
        drawn: Samples of each class.

    Raises:
        ConfigError: There are fewer; says how many are to be drawn.
    """
    rule = config.rule
    if isinstance(rule, RandomRule | AblationRule):
        return
    wanted = math.ceil(rule.oversampling * rule.max_per_class)
    label, fewest = min(drawn.items(), key=lambda item: item[1])
    if fewest < wanted:
        lower = max(1, int(fewest / rule.oversampling))
        raise ConfigError(
            f"rule.max_per_class {rule.max_per_class}: {config.samples} has {fewest} samples of"
            f" {label}, and an order decides little among fewer than {rule.oversampling:g} times as"
            f" many as are taken (rule.oversampling); draw {wanted} of each class (synthesize:"
            f" per_class={wanted}), or lower rule.max_per_class to {lower}"
        )


def _inputs_of_all(rule: AllOfRule) -> dict[str, Reference]:
    found = {}
    for number, criterion in enumerate(rule.rules):
        match extractor_of(criterion):
            case (below, extractor):
                for key, address in extractor_inputs(extractor).items():
                    found[f"rule.rules.{number}.{below}extractor.{key}"] = address
    if rule.held_out.patches is not None:
        found["rule.held_out.patches"] = rule.held_out.patches.as_kind(Kind.PATCHES)
    return found
