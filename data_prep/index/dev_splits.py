"""Other divisions of the slides that are no test: a study is not of one lucky validation split.

Slides (of one patient) are divided anew between ``train`` and ``val``; those of ``test`` stay, and
so do those without a split. The division depends on slides, labels, config and seed alone, so a
PatchIndex and the LatentStore of its patches are divided alike.
"""

from collections import Counter, defaultdict
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from histodiff.config import Config
from histodiff.data_prep.index.splits import SplitConfig, assign_splits, majority_label
from histodiff.errors import ConfigError

_DEV = ("train", "val")


class DevSplit(Config):
    """How slides outside the test are divided anew into training and validation."""

    val: float = Field(gt=0, lt=1)
    """Fraction of the groups outside the test for validation."""
    group_by: Literal["slide", "patient"] = "patient"
    """What must never be in two splits."""
    stratify: bool = True
    """Divide the groups of every class separately (the class of most of a group's patches)."""
    seed: int | None = None
    """Seed of the division; null takes the command's own, so that a sweep divides per seed."""


def redrawn_splits(rows: Any, config: DevSplit, *, seed: int) -> Any:
    """The column ``split`` of patches, with slides outside the test divided anew.

    Args:
        rows: Table with slide_id, patient_id, label and split.
        config: The division.
        seed: Seed, where the config has none.

    Raises:
        ConfigError: No slide is in training or validation, or only one group is; or a slide is of
            two patients and patients shall not be parted.
    """
    split_of = _divided(rows, config, seed)
    old = rows["split"].to_pylist()
    slides = rows["slide_id"].to_pylist()
    new = [
        split_of[slide] if split in _DEV else split
        for slide, split in zip(slides, old, strict=True)
    ]
    return pa.array(new, pa.string())


def require_undivided(slides: Any, config: DevSplit) -> None:
    """Checks that a division by patient cannot part slides that show the same tissue.

    Args:
        slides: Slides of a PatchIndex.
        config: The division.

    Raises:
        ConfigError: Slides of one ``duplicate_group`` are of different groups.
    """
    column = "slide_id" if config.group_by == "slide" else "patient_id"
    seen: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for slide in slides.select(["slide_id", "patient_id", "duplicate_group"]).to_pylist():
        if slide["duplicate_group"] is not None:
            seen[slide["duplicate_group"]].setdefault(str(slide[column]), slide["slide_id"])
    for groups in seen.values():
        if len(groups) > 1:
            first, second, *_ = groups.values()
            raise ConfigError(
                f"dev_split: slides {first} and {second} show the same tissue but differ in"
                f" {column}, so a new division could part them; give them one patient id and"
                " divide by patient, or leave dev_split out"
            )


def _divided(rows: Any, config: DevSplit, seed: int) -> dict[str, str]:
    """Split of every slide outside the test."""
    dev = rows.select(["slide_id", "patient_id", "label", "split"])
    dev = dev.filter(pc.is_in(pc.cast(dev["split"], pa.string()), pa.array(_DEV)))
    counted = dev.group_by(["slide_id", "patient_id", "label"]).aggregate([("split", "count")])
    patient_of: dict[str, str] = {}
    labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in counted.to_pylist():
        patient = patient_of.setdefault(row["slide_id"], row["patient_id"])
        if config.group_by == "patient" and patient != row["patient_id"]:
            raise ConfigError(
                f"dev_split: slide {row['slide_id']} is of two patients, {patient} and"
                f" {row['patient_id']}, so a new division could part them; correct the ids and tile"
                " again, or leave dev_split out"
            )
        if row["label"] is not None:
            labels[row["slide_id"]][row["label"]] += row["split_count"]
    num_groups = len(set(patient_of.values() if config.group_by == "patient" else patient_of))
    if num_groups < 2:
        raise ConfigError(
            f"dev_split: {num_groups} {config.group_by}s are outside the test; two are needed"
        )
    table = pa.table(
        {
            "slide_id": pa.array(sorted(patient_of), pa.string()),
            "patient_id": pa.array([patient_of[name] for name in sorted(patient_of)], pa.string()),
        }
    )
    own = seed if config.seed is None else config.seed
    return assign_splits(
        table,
        SplitConfig(
            val=config.val, test=0.0, group_by=config.group_by, stratify=config.stratify, seed=own
        ),
        labels={slide: majority_label(found) for slide, found in labels.items()},
    )
