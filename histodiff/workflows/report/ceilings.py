"""The section of the report that shows ceilings: what perfect samples would have bought."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from histodiff.artifacts import Artifact
from histodiff.evaluation.statistics import Interval
from histodiff.storage import read_bytes

_RESULTS = "ceiling.json"
_CONTROLS = ("real", "untouched")


@dataclass(frozen=True)
class CeilingArm:
    """One line of the table."""

    arm: str
    added: float
    balanced_accuracy: Interval
    auc: Interval | None
    against: Mapping[str, tuple[Interval, str]]
    """Difference and verdict on the metric of the conclusion, by what it is against."""


@dataclass(frozen=True)
class CeilingShown:
    """One ceiling: its conclusion, its table, and what limits it."""

    name: str
    metric: str
    level: float
    num_seeds: int
    lines: Sequence[str]
    limits: Sequence[str]
    arms: Sequence[CeilingArm]


def ceiling_shown(artifact: Artifact) -> CeilingShown:
    """The section of one ceiling."""
    record = json.loads(read_bytes(artifact.path / _RESULTS))
    metric = record["setting"]["metric"]
    against: dict[tuple[str, str], tuple[Interval, str]] = {
        (item["arm"], item["versus"]): (Interval(**item["difference"]), item["verdict"])
        for item in record["differences"]
        if item["metric"] == metric
    }
    return CeilingShown(
        name=str(artifact.reference),
        metric=metric,
        level=record["setting"]["level"],
        num_seeds=len(record["seeds"]),
        lines=record["lines"],
        limits=record["limits"],
        arms=[_arm(arm, against) for arm in record["arms"]],
    )


def _arm(
    arm: Mapping[str, Any], against: Mapping[tuple[str, str], tuple[Interval, str]]
) -> CeilingArm:
    name, metrics = arm["arm"], arm["metrics"]
    return CeilingArm(
        arm=name,
        added=arm["added"],
        balanced_accuracy=Interval(**metrics["balanced_accuracy"]),
        auc=Interval(**metrics["auc"]) if "auc" in metrics else None,
        against={other: against[name, other] for other in _CONTROLS if (name, other) in against},
    )
