"""The section of the report on the quality of samples: every measure beside its floor, and copies.

Nothing is measured here: the numbers are those that ``synthesize`` recorded, each table with the
extractor that it is in. Tables of different extractors are not put side by side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from histodiff.artifacts import Artifact, open_artifact
from histodiff.evaluation.quality.comparison import MEASURES
from histodiff.storage import StoragePath, list_names
from histodiff.workflows.quality.measuring import AGREEMENT, MEMORISATION, QUALITY, SUSPECTS_FILE
from histodiff.workflows.report.comparisons import setting_text
from histodiff.workflows.report.pictures import Picture, stored_picture
from histodiff.workflows.report.samples import first_of_each_setting
from histodiff.workflows.sweep.trial_table import TrialRow

_LOW_IS_GOOD = ("frechet_distance", "kernel_distance")
_NAMES = {"frechet_distance": "Frechet distance", "kernel_distance": "kernel distance (KID)"}


@dataclass(frozen=True)
class MeasureRow:
    """One line of a table: a measure of the samples beside that of halves of real slides."""

    of: str
    """All samples, or those of a class."""
    measure: str
    better: str
    """``lower`` or ``higher``."""
    value: float
    low: float
    high: float
    floor: float
    floor_low: float
    floor_high: float

    @property
    def reaches_the_floor(self) -> bool:
        """Whether the interval meets that of real halves: no difference from reality was seen."""
        if self.better == "lower":
            return self.low <= self.floor_high
        return self.high >= self.floor_low


@dataclass(frozen=True)
class JudgedRow:
    """One line of a table: samples asked for as one class, and what they were called."""

    of: str
    num_samples: int
    share: float
    low: float
    high: float
    mean_probability: float
    counts: Sequence[int]
    """By the most probable class, in the order of the judge's classes."""


@dataclass(frozen=True)
class JudgedShown:
    """What a classifier of real patches said of one set of samples."""

    sentence: str
    classes: Sequence[str]
    rows: Sequence[JudgedRow]


@dataclass(frozen=True)
class QualityShown:
    """What was measured of one set of samples."""

    name: str
    settings: str
    sentence: str
    rows: Sequence[MeasureRow]
    warnings: Sequence[str]
    copies: str | None
    """What was found of copies, in words; None where it was not looked for."""
    judged: "JudgedShown | None"
    """What a classifier said that they show; None where none was asked."""
    picture: Picture | None


def sample_quality(
    root: StoragePath, samples: Sequence[Artifact], rows: Sequence[TrialRow]
) -> list[QualityShown]:
    """One table for each set of samples that was measured.

    Args:
        root: Where trials lie.
        samples: Sets of samples named by the report.
        rows: Trials of a sweep; of each setting the lowest seed is shown.
    """
    of_sweep = [
        (open_artifact(root, row.artifact), setting_text(row.axes))
        for row in first_of_each_setting(rows, "synthesize")
    ]
    named = [(artifact, "") for artifact in samples]
    return [
        _shown(artifact, settings)
        for artifact, settings in (*named, *of_sweep)
        if QUALITY in artifact.manifest.contents
    ]


def _shown(artifact: Artifact, settings: str) -> QualityShown:
    contents = artifact.manifest.contents
    quality, copies = contents[QUALITY], contents.get(MEMORISATION)
    said = contents.get(AGREEMENT)
    rows = _rows("all", quality)
    for label, own in quality["by_class"].items():
        rows += _rows(label, own)
    picture = None
    if SUSPECTS_FILE in list_names(artifact.path):
        picture = stored_picture(
            artifact.path / SUSPECTS_FILE,
            alt="Samples above the training patches nearest to them.",
            caption="The samples closest to training, each above its nearest training patch.",
        )
    return QualityShown(
        name=str(artifact.reference),
        settings=settings,
        sentence=_sentence(quality),
        rows=rows,
        warnings=_warnings(quality),
        copies=None if copies is None else _copies(copies, quality["num_images"]),
        judged=None if said is None else _judged(said),
        picture=picture,
    )


def _rows(of: str, quality: Mapping[str, Any]) -> list[MeasureRow]:
    return [
        MeasureRow(
            of=of,
            measure=_NAMES.get(name, name),
            better="lower" if name in _LOW_IS_GOOD else "higher",
            **quality["measures"][name],
        )
        for name in MEASURES
        if name in quality["measures"]
    ]


def _sentence(quality: Mapping[str, Any]) -> str:
    return (
        f"{quality['num_images']:,} samples against {quality['num_real']:,} held-out patches of"
        f" {quality['num_groups']:,} slides or patients, {quality['num_compared']:,} of each set in"
        f" measures that depend on the number. Features: {quality['extractor']} at"
        f" {quality['extractor_input_px']} px (weights {quality['extractor_sha256'][:12]}); figures"
        " in other features cannot be compared with these."
    )


def _warnings(quality: Mapping[str, Any]) -> list[str]:
    found = list(quality["warnings"])
    for label, own in quality["by_class"].items():
        found += [f"{label}: {line}" for line in own["warnings"] if line not in found]
    return found


def _copies(copies: Mapping[str, Any], num_images: int) -> str:
    text = (
        f"{copies['share']:.1%} of the samples are as close to a training patch as the closest"
        f" {copies['share_of_real']:.1%} of held-out patches are;"
        f" {copies['closer_than_any_real']:,} of {num_images:,} are closer than any of them."
        f" Compared with {copies['num_training']:,} training patches"
    )
    if copies["num_training_left_out"]:
        text += (
            f" ({copies['num_training_left_out']:,} more were left out, so copies may be missed)"
        )
    turned = copies["symmetries"]
    return f"{text}, {'as they are' if turned == 'none' else 'flipped and turned too'}."


def _judged(said: Mapping[str, Any]) -> JudgedShown:
    confusion = said["confusion"]
    return JudgedShown(
        sentence=_judged_sentence(said),
        classes=tuple(next(iter(confusion.values()))),
        rows=[
            JudgedRow(
                of=label,
                num_samples=own["num_samples"],
                share=own["share"]["value"],
                low=own["share"]["low"],
                high=own["share"]["high"],
                mean_probability=own["mean_probability"]["value"],
                counts=tuple(confusion[label].values()),
            )
            for label, own in said["by_class"].items()
        ],
    )


def _judged_sentence(said: Mapping[str, Any]) -> str:
    share, probability = said["share"], said["mean_probability"]
    text = (
        f"{said['judge']} calls {share['value']:.1%} of {said['num_samples']:,} samples what they"
        f" were asked for (95 % interval {share['low']:.1%} to {share['high']:.1%}, over samples),"
        f" and gives that class a mean probability of {probability['value']:.2f}."
        f" {_worth(said['real'], said['num_real_known_to_judge'])}"
    )
    if said["same_labels"]:
        text += " It learned from the same labels as the samples, so it is no independent judge."
    return text


def _worth(real: Mapping[str, Any] | None, num_known: int) -> str:
    """What a judge is worth itself."""
    if real is None:
        why = (
            f"the {num_known:,} labelled real patches are all of slides or patients that it learned"
            " from"
            if num_known
            else "no real patch has a label of these classes"
        )
        return f"What it is worth itself is not known: {why}."
    low, high = real["low"], real["high"]
    spread = "" if low is None else f" ({low:.1%} to {high:.1%}, over slides or patients)"
    return (
        f"Its own balanced accuracy is {real['balanced_accuracy']:.1%}{spread} on"
        f" {real['num_patches']:,} real patches of {real['num_groups']:,} slides or patients that"
        " it did not learn from."
    )
