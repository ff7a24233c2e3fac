"""Train, validation and test by slide, patient or site; and the few labels that may be used.

Groups are ranked by a hash of (seed, group) inside their class and cut at the fractions: a slide
that is added later hardly moves the others, and no draw depends on the order of the input.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from histodiff.config import Added, Config
from histodiff.data_prep.index.few_groups import few_groups
from histodiff.data_prep.index.grouping import connected_groups, links_of_equals
from histodiff.errors import ConfigError
from histodiff.runtime import derived_seed, generator_for

SPLITS = ("train", "val", "test")
_GROUP_COLUMN = {"slide": "slide_id", "patient": "patient_id", "site": "site"}
SharedPatients = Literal["refuse", "leave_out", "keep"]
"""What is done about patients whom published splits have in two parts."""


class SplitConfig(Config):
    """How slides are divided into train, validation and test."""

    val: float = Field(ge=0, lt=1)
    """Fraction of the groups for validation."""
    test: float = Field(ge=0, lt=1)
    """Fraction of the groups for the test."""
    group_by: Literal["slide", "patient", "site"] = "patient"
    """What must never be in two splits. Without patient ids, each slide is its own patient."""
    stratify: bool = True
    """Divide the groups of every class separately (the class of most of a group's patches)."""
    seed: int
    """Seed of the division."""
    shared: Annotated[SharedPatients, Added()] = "refuse"
    """What is done about a patient whose images the published splits part: `refuse`; `leave_out`
    takes only those of the last part (test, then val, then train) and leaves the others out;
    `keep` takes all as published, as different patients. What was done is recorded."""

    @property
    def group_column(self) -> str:
        """Column of the table of slides whose values are the groups."""
        return _GROUP_COLUMN[self.group_by]

    @model_validator(mode="after")
    def _leave_some_for_training(self) -> "SplitConfig":
        if self.val + self.test >= 1:
            raise ValueError(
                f"val + test = {self.val + self.test:g} leaves nothing for training; lower one"
            )
        return self


class SlidesPerClass(Config):
    """All labelled patches of ``count`` slides of each class."""

    type: Literal["slides_per_class"]
    count: int = Field(ge=1)
    """Labelled slides per class."""


class Fraction(Config):
    """A random fraction of the labelled patches of each class."""

    type: Literal["fraction"]
    fraction: float = Field(gt=0, le=1)
    """Fraction of the training patches, per class; at least one patch."""


class Patches(Config):
    """A number of labelled patches in all, as equal over the classes as possible."""

    type: Literal["patches"]
    count: int = Field(ge=1)
    """Labelled patches in all."""


class PatchesPerClass(Config):
    """A number of labelled patches of each class, from few slides or patients if that is said."""

    type: Literal["patches_per_class"]
    count: int = Field(ge=1)
    """Labelled patches of each class."""
    max_slides: int | None = Field(default=None, ge=1)
    """Slides that all of them are from, at most; null for any number."""
    max_patients: int | None = Field(default=None, ge=1)
    """Patients that all of them are from, at most; null for any number."""
    min_groups: int = Field(default=1, ge=1)
    """Slides or patients, of those, that each class is from at the least: cross-fitting in three
    parts needs three. They give equally many, as far as they have them."""

    @model_validator(mode="after")
    def _one_limit(self) -> "PatchesPerClass":
        if self.max_slides is not None and self.max_patients is not None:
            raise ValueError("give max_slides or max_patients, not both")
        most = self.limit[1] if self.limit else 1
        if self.min_groups > min(most, self.count):
            raise ValueError(
                f"min_groups={self.min_groups} must not exceed max_slides or max_patients, nor"
                f" count={self.count}"
            )
        return self

    @property
    def limit(self) -> tuple[str, int] | None:
        """The column whose values are few, and how many; None without a limit."""
        if self.max_slides is not None:
            return "slide_id", self.max_slides
        return None if self.max_patients is None else ("patient_id", self.max_patients)


class AllLabels(Config):
    """Every label of the training split."""

    type: Literal["all"]


LabelBudget = Annotated[
    SlidesPerClass | Fraction | Patches | PatchesPerClass | AllLabels, Field(discriminator="type")
]
"""How many labels may be used."""


def assign_splits(
    slides: Any,
    config: SplitConfig,
    *,
    labels: Mapping[str, str] | None = None,
    same: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The split of every slide.

    Args:
        slides: Table with slide_id, patient_id and site.
        config: Fractions, grouping and seed.
        labels: Class of each labelled slide, for stratification.
        same: Slides that belong together for another reason, such as shared tissue: those with
            equal values, and all groups that such slides are in, go to one split.

    Returns:
        ``slide_id -> "train" | "val" | "test"``. Of a class with at least three groups, every split
        whose fraction is not zero gets one; every class keeps at least one group for training.

    Raises:
        ConfigError: A slide has no patient or site to be grouped by.
    """
    column = config.group_column
    if None in slides[column].to_pylist():
        raise ConfigError(
            f"split.group_by is {config.group_by}, but not all slides have a {column}; give them"
        )
    group_of = dict(zip(slides["slide_id"].to_pylist(), slides[column].to_pylist(), strict=True))
    group_of = _united(group_of, same or {})
    classes: defaultdict[str, list[str]] = defaultdict(list)
    for group, label in _group_labels(group_of, labels if config.stratify and labels else {}):
        classes[label].append(group)
    split_of: dict[str, str] = {}
    for groups in classes.values():
        ranked = sorted(
            groups, key=lambda group: (derived_seed(config.seed, "split", group), group)
        )
        num_test, num_val = _split_counts(len(ranked), config)
        for rank, group in enumerate(ranked):
            split_of[group] = (
                "test" if rank < num_test else "val" if rank < num_test + num_val else "train"
            )
    return {slide: split_of[group] for slide, group in group_of.items()}


def labelled_subset(rows: Any, *, budget: LabelBudget, seed: int) -> npt.NDArray[np.int64]:
    """Numbers of the rows whose labels may be used, ascending.

    Args:
        rows: Table with slide_id, patient_id, label and split.
        budget: How many labels.
        seed: Which ones; for one seed, a smaller budget is part of a larger one of its type (of
            patches from few slides or patients: where the same ones have enough for both).

    Raises:
        ConfigError: There are fewer labelled training slides or patches than the budget asks for.
    """
    labels = np.asarray(rows["label"].to_pylist(), dtype=object)
    train = np.asarray(rows["split"].to_pylist(), dtype=object) == "train"
    usable = train & np.array([label is not None for label in labels], dtype=bool)
    classes = sorted(set(labels[usable]))
    if not classes:
        raise ConfigError("no labelled training patches; give a labelled set with a training split")
    members = {name: np.flatnonzero(usable & (labels == name)) for name in classes}
    match budget:
        case SlidesPerClass():
            slides = np.asarray(rows["slide_id"].to_pylist(), dtype=object)
            chosen = [
                _rows_of_slides(name, rows_K, slides, budget.count, seed)
                for name, rows_K in members.items()
            ]
        case Fraction():
            chosen = [
                _drawn(name, rows_K, max(1, round(budget.fraction * len(rows_K))), seed)
                for name, rows_K in members.items()
            ]
        case Patches():
            each, extra = divmod(budget.count, len(classes))
            chosen = [
                _drawn(name, rows_K, each + (number < extra), seed)
                for number, (name, rows_K) in enumerate(members.items())
            ]
        case PatchesPerClass():
            group_of = _few_of(rows, members, budget, seed)
            chosen = [
                _drawn(name, rows_K, budget.count, seed, group_of=group_of)
                for name, rows_K in members.items()
            ]
        case AllLabels():
            chosen = list(members.values())
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def majority_label(counts: Mapping[str, int]) -> str:
    """The most frequent label, the first in the alphabet among equals."""
    return min(counts, key=lambda label: (-counts[label], label))


def _united(group_of: Mapping[str, str], same: Mapping[str, str]) -> dict[str, str]:
    """Groups joined wherever slides that are the ``same`` are in both; named for the first."""
    slides = list(group_of)
    links = links_of_equals([group_of[slide] for slide in slides])
    links += links_of_equals([(slide in same, same.get(slide, slide)) for slide in slides])
    joined = connected_groups(len(slides), links).tolist()
    name_of: dict[int, str] = {}
    for slide, number in zip(slides, joined, strict=True):
        name_of[number] = min(name_of.get(number, group_of[slide]), group_of[slide])
    return {slide: name_of[number] for slide, number in zip(slides, joined, strict=True)}


def _group_labels(group_of: Mapping[str, str], labels: Mapping[str, str]) -> list[tuple[str, str]]:
    by_group: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for slide, group in group_of.items():
        by_group[group].update([labels[slide]] if slide in labels else [])
    return [(group, majority_label(found) if found else "") for group, found in by_group.items()]


def _split_counts(num_groups: int, config: SplitConfig) -> tuple[int, int]:
    """Numbers of groups for test and validation; at least one group stays for training."""
    least = 1 if num_groups >= 3 else 0
    test = max(round(config.test * num_groups), least) if config.test else 0
    val = max(round(config.val * num_groups), least) if config.val else 0
    test = min(test, max(num_groups - 1, 0))
    return test, min(val, max(num_groups - 1 - test, 0))


def _rows_of_slides(
    label: str, rows_K: npt.NDArray[Any], slides: npt.NDArray[Any], count: int, seed: int
) -> npt.NDArray[Any]:
    available = sorted(set(slides[rows_K]))
    if len(available) < count:
        raise ConfigError(
            f"budget asks for {count} slides of class '{label}', the training split has"
            f" {len(available)}; lower budget.count"
        )
    ranked = sorted(
        available, key=lambda slide: (derived_seed(seed, "budget", label, slide), slide)
    )
    return rows_K[np.isin(slides[rows_K], ranked[:count])]


def _drawn(
    label: str,
    rows_K: npt.NDArray[Any],
    count: int,
    seed: int,
    *,
    group_of: Mapping[int, str] | None = None,
) -> npt.NDArray[Any]:
    """``count`` rows of a class, the first of one order; of those with a group, if that is given.

    Groups take turns in the order, so that they give equally many.
    """
    if len(rows_K) < count:
        raise ConfigError(
            f"budget asks for {count} patches of class '{label}', the training split has"
            f" {len(rows_K)}; lower budget.count"
        )
    order = generator_for(seed, "budget", label).permutation(len(rows_K))
    if group_of is not None:
        order = _in_turns(order, [group_of.get(int(row)) for row in rows_K])
    return rows_K[np.sort(order[:count])]


def _in_turns(order: npt.NDArray[np.int64], groups: Sequence[str | None]) -> npt.NDArray[np.int64]:
    """The first of each group, then the second of each, and so on, without those of no group."""
    seen: Counter[str] = Counter()
    turns = []
    for place, number in enumerate(order):
        group = groups[number]
        if group is not None:
            turns.append((seen[group], place, number))
            seen[group] += 1
    return np.array([number for _, _, number in sorted(turns)], np.int64)


def _few_of(
    rows: Any, members: Mapping[str, npt.NDArray[Any]], budget: PatchesPerClass, seed: int
) -> dict[int, str] | None:
    """Slide or patient of the rows that are of the few; None where any may be used."""
    if budget.limit is None:
        return None
    column, at_most = budget.limit
    groups = np.asarray(rows[column].to_pylist(), dtype=object)
    found = [Counter(groups[rows_K]) for rows_K in members.values()]
    counts = {group: [each[group] for each in found] for each in found for group in each}
    chosen = few_groups(
        counts, at_most=at_most, each=budget.count, seed=seed, spread=budget.min_groups
    )
    if chosen is None:
        what = "slides" if column == "slide_id" else "patients"
        spread = f", each class from {budget.min_groups}" if budget.min_groups > 1 else ""
        raise ConfigError(
            f"budget asks for {budget.count} patches of each class from at most {at_most} {what}"
            f"{spread}, and no {at_most} {what} of the training split have them; lower"
            f" budget.count, or raise budget.max_{what}"
        )
    few = set(chosen)
    used = np.concatenate(list(members.values()))
    return {int(row): groups[row] for row in used if groups[row] in few}
