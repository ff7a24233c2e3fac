"""Config of the rules, and the reasons they give.

``all_of`` combines criteria: its own config is the command's, as one of them trains networks. A
criterion has a name (its type, unless it is given another), under which its scores are stored.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from histodiff.artifacts import Reference
from histodiff.config import Config, Location
from histodiff.features.kinds import ExtractorConfig
from histodiff.models.classifier import ClassifierConfig, NoWeights
from histodiff.runtime.symmetries import Symmetries

_UNTRAINED = "random weights judge nothing: give trained ones"
Oversampling = Annotated[float, Field(ge=0)]


class Reason(StrEnum):
    """Why a sample was accepted or rejected."""

    ACCEPTED = "ACCEPTED"
    OTHER_CENTROID = "OTHER_CENTROID"
    UNSURE = "UNSURE"
    UNREAL = "UNREAL"
    COPY = "COPY"
    CLUSTER_FULL = "CLUSTER_FULL"
    SOURCE_FULL = "SOURCE_FULL"
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
    oversampling: Oversampling = 3.0
    """Samples of each class that there must be, as a multiple of `max_per_class`: with fewer the
    order decides little. 0 asks for none."""

    @model_validator(mode="after")
    def _one_extractor(self) -> "CentroidRule":
        if (self.classifier is None) == (self.extractor is None):
            raise ValueError("give exactly one of `classifier` and `extractor`")
        if self.extractor is not None and isinstance(self.extractor.pretrained, NoWeights):
            raise ValueError(f"{_UNTRAINED} (extractor.pretrained), or name a `classifier`")
        return self


class RandomRule(Config):
    """Accept samples at random: the control of a selection."""

    type: Literal["random"]
    match: Annotated[Reference | None, Location()] = None
    """Selection whose accepted counts per class are matched."""
    max_per_class: int | None = Field(default=None, ge=1)
    """At most this many per class; all of them by default."""


class AblationRule(Config):
    """Decide anew by what a finished selection of the rule `all_of` says of every sample.

    What each of its criteria does, and what the order, is seen in seconds.
    """

    type: Literal["ablation"]
    selection: Annotated[Reference, Location()]
    """Selection of the same samples whose scores, reasons and groups are taken."""
    without: tuple[str, ...] = ()
    """Names of its criteria that reject nothing."""
    rank_by: str | None = None
    """Name of the criterion whose score decides the order, or `random`; null for the order of the
    selection."""


def _trained(extractor: ExtractorConfig) -> ExtractorConfig:
    if extractor.type == "random_features":
        raise ValueError(f"{_UNTRAINED}, of `timm`, `classifier` or `denoiser`")
    return extractor


TrainedExtractor = Annotated[ExtractorConfig, AfterValidator(_trained)]
"""Any extractor but one with random weights."""


class Criterion(Config):
    """What all criteria have."""

    name: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$")
    """Name of its score; null takes the type. Two of a type need different ones."""


class AgreementRule(Criterion):
    """The nearest class centroid is that of the class asked for (the rule `centroid`).

    Score: minus the distance to that centroid.
    """

    type: Literal["agreement"]
    extractor: TrainedExtractor
    """Network whose features are compared."""


class RealismRule(Criterion):
    """The sample lies in the neighbourhood of a held-out real patch.

    Score: radius of a neighbourhood over the distance to its middle, the largest of all
    (Kynkaanniemi et al. 2019, Eq. 3); at 1 and above the sample counts for precision (Eq. 1).
    """

    type: Literal["realism"]
    extractor: TrainedExtractor
    """Network whose features are compared."""
    neighbours: int = Field(default=3, ge=1)
    """A neighbourhood reaches to this neighbour of a patch among the held-out patches."""
    narrowest: float = Field(default=1.0, gt=0, le=1)
    """Share of the neighbourhoods that count, the narrowest: patches that are unlike all others
    have wide ones. The paper's score takes 0.5, its precision all."""
    min_score: float = Field(default=1.0, gt=0)
    """Least score that is accepted."""


class CopiesRule(Criterion):
    """The sample is no copy of an image that denoiser, autoencoder or guide saw.

    Score: distance to the nearest of them, over their spacing there. It must exceed the distance
    that held-out real patches keep.
    """

    type: Literal["copies"]
    extractor: TrainedExtractor
    """Network whose features are compared."""
    symmetries: Symmetries = "flips_and_turns"
    """Symmetries under which a copy counts as one."""
    quantile: float = Field(default=0.01, ge=0, lt=1)
    """Share of held-out real patches that are as close as what is rejected."""
    own_source: Literal["counts", "excepted"] = "counts"
    """Whether the patch that a sample varies counts as an image that it may copy."""
    training_images: int | None = Field(default=None, ge=100)
    """Images compared with at most, of each PatchIndex, drawn by the seed; null takes all, and so
    finds every copy."""


class ClusterQuota(Criterion):
    """No cluster of a class gives more than its share of what is taken."""

    type: Literal["cluster_quota"]
    extractor: TrainedExtractor
    """Network whose features, at length one, are clustered (k-means)."""
    clusters: int = Field(default=10, ge=2)
    """Clusters of each class."""
    slack: float = Field(default=1.5, ge=1)
    """Most of one cluster, as a multiple of an equal share of `max_per_class`."""


class SourceQuota(Criterion):
    """No slide whose patches were varied gives more than its share of what is taken."""

    type: Literal["source_quota"]
    slack: float = Field(default=1.5, ge=1)
    """Most of one slide, as a multiple of an equal share of `max_per_class`."""


class HeldOut(Config):
    """Real patches that no network was trained on: what is real, and how close is innocent."""

    patches: Annotated[Reference | None, Location()] = None
    """PatchIndex; null takes the target's."""
    splits: tuple[Literal["train", "val"], ...] = Field(default=("val",), min_length=1)
    """Splits of it; what a network of the samples saw is left out. Their labels are not looked
    at, and the test split cannot be named."""
    images: int = Field(default=2000, ge=20)
    """Patches at most, drawn by the seed."""
