"""What may join the labelled patches, by ``type``: samples, or real patches that they must beat."""

from typing import Annotated, Literal

from pydantic import Field

from histodiff.artifacts import Kind, Reference
from histodiff.classification.pseudo_labels import Choice, Weighting
from histodiff.classification.stand_ins import StandIn
from histodiff.config import Config, Location
from histodiff.features.kinds import ExtractorConfig, extractor_inputs

TEACHER, POOL, EXTRACTOR = "added.teacher", "added.pool", "added.extractor"
"""Keys of inputs."""


class AddedSamples(Config):
    """Generated images that a selection accepted, in its order."""

    type: Literal["samples"]
    samples: Annotated[Reference, Location()]
    """SampleStore that the selection is of."""
    selection: Annotated[Reference, Location()]
    """Selection whose samples join the training."""


class GuideTeacher(Config):
    """A guide judges patches that are encoded and noised as it knows them."""

    type: Literal["guide"]
    guide: Annotated[Reference, Location()]
    """Guide, of the same labels."""
    denoiser: Annotated[Reference, Location()]
    """Denoiser that it was trained for."""
    autoencoder: Annotated[Reference, Location()]
    """Autoencoder whose encoder it belongs to."""
    sigmas: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    """Noise levels that it judges at; its probabilities are averaged over them."""


class ClassifierTeacher(Config):
    """A classifier judges patches; of whatever method."""

    type: Literal["classifier"]
    classifier: Annotated[Reference, Location()]
    """Classifier of the same labels, trained with `calibration`."""


class AddedPseudoLabels(Config):
    """Real patches without a known label; a teacher says how likely each class is."""

    type: Literal["pseudo_labels"]
    teacher: Annotated[GuideTeacher | ClassifierTeacher, Field(discriminator="type")]
    """Who guesses: `guide` or `classifier`."""
    pool: Annotated[Reference | None, Location()] = None
    """PatchIndex whose training patches may join; null takes the target's training patches beyond
    the budget, without a look at their labels."""
    candidates: int | None = Field(default=None, ge=1)
    """Patches that are judged at most, drawn by the seed; null judges all."""
    choice: Choice = Choice.RANDOM
    """Which come first within a class: `random` or `confident`."""
    weighting: Weighting = Weighting.NONE
    """How much a patch counts: `none` (as much as a labelled one) or `confidence`."""


class AddedRetrieval(Config):
    """Real patches of a pool that look like labelled ones, labelled as what they look like."""

    type: Literal["retrieval"]
    pool: Annotated[Reference, Location()]
    """PatchIndex whose training patches may join; no label of it is looked at."""
    candidates: int | None = Field(default=None, ge=1)
    """Patches of it that are looked at, at most, drawn by the seed; null looks at all."""
    extractor: ExtractorConfig
    """In whose features patches look alike: `timm`, `classifier`, `denoiser`, `random_features`."""


class AddedStandIns(Config):
    """Real patches with their true labels: the ceiling of whatever else may join."""

    type: Literal["stand_ins"]
    stand_in: Literal[StandIn.OTHER_SLIDES, StandIn.OTHER_PATCHES] = StandIn.OTHER_SLIDES
    """Which: of `other_slides` than the labelled ones, or `other_patches` of whichever."""


AddedConfig = Annotated[
    AddedSamples | AddedPseudoLabels | AddedRetrieval | AddedStandIns, Field(discriminator="type")
]


def added_inputs(added: AddedConfig | None) -> dict[str, Reference]:
    """Full addresses of what is read for it, by key."""
    match added:
        case AddedSamples():
            return {
                "samples": added.samples.as_kind(Kind.SAMPLES),
                "selection": added.selection.as_kind(Kind.SELECTIONS),
            }
        case AddedPseudoLabels():
            pool = {} if added.pool is None else {POOL: added.pool.as_kind(Kind.PATCHES)}
            return {**pool, **_teacher_inputs(added.teacher)}
        case AddedRetrieval():
            of_extractor = extractor_inputs(added.extractor)
            return {
                POOL: added.pool.as_kind(Kind.PATCHES),
                **{f"{EXTRACTOR}.{key}": address for key, address in of_extractor.items()},
            }
        case _:
            return {}


def _teacher_inputs(teacher: GuideTeacher | ClassifierTeacher) -> dict[str, Reference]:
    if isinstance(teacher, ClassifierTeacher):
        return {f"{TEACHER}.classifier": teacher.classifier.as_kind(Kind.CLASSIFIERS)}
    return {
        f"{TEACHER}.guide": teacher.guide.as_kind(Kind.GUIDES),
        f"{TEACHER}.denoiser": teacher.denoiser.as_kind(Kind.DENOISERS),
        f"{TEACHER}.autoencoder": teacher.autoencoder.as_kind(Kind.AUTOENCODERS),
    }
