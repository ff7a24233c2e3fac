"""What the report says in words: what was shown, and what the numbers cannot show.

Every sentence is computed from the evidence; a limit is stated whenever it holds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from histodiff.artifacts import open_artifact
from histodiff.evaluation.sentences import counted, points, words
from histodiff.evaluation.statistics import FEWEST_SEEDS, Verdict
from histodiff.storage import StoragePath
from histodiff.workflows.report.comparisons import Comparison
from histodiff.workflows.sweep.trial_table import METRICS_FILE, TrialRow

_ENOUGH_SEEDS = 5
_ENOUGH_SLIDES = 30
_NEARLY_ALL = 0.9
_MANY = 6


@dataclass(frozen=True)
class HeldOut:
    """What the classifiers were tested on, and how well it can tell them apart."""

    slides: int
    patches: int
    half_width: float | None
    """Half of the 95 % bootstrap interval over test slides of the control, mean over its trials."""
    short_of_samples: int
    """Classifiers that were to get more samples than were accepted."""


@dataclass(frozen=True)
class Evidence:
    """Everything that limits what the comparisons can show."""

    comparisons: Sequence[Comparison]
    control: str
    metric: str
    num_seeds: int
    num_failed: int
    held_out: HeldOut | None
    accepted_fraction: float | None
    notes: Sequence[str]


def held_out(
    root: StoragePath, rows: Sequence[TrialRow], *, control: str, metric: str
) -> HeldOut | None:
    """What the classifiers of a sweep say of their test set; None without one."""
    scored = [row for row in rows if row.arm is not None and metric in row.metrics]
    found = [(row, _metrics(root, row)) for row in scored]
    if not found:
        return None
    intervals = [
        record["patch_interval"].get(metric) for row, record in found if row.arm == control
    ]
    widths = [(high - low) / 2 for low, high in filter(None, intervals)]
    return HeldOut(
        slides=int(found[0][1]["test_slides"]),
        patches=int(found[0][1]["test_patches"]),
        half_width=sum(widths) / len(widths) if widths else None,
        short_of_samples=sum(
            sum(record["synthetic"].values()) < record["synthetic_wanted"] for _, record in found
        ),
    )


def headline(evidence: Evidence) -> str:
    """The outcome in one sentence."""
    against = [item for item in evidence.comparisons if item.versus == evidence.control]
    if not against:
        return "No comparison with the control could be made."
    if len(against) == 1:
        return against[0].sentence
    return (
        f"Compared with {evidence.control} on {words(evidence.metric)} in {len(against)} settings:"
        f" {counted(item.verdict for item in against)}."
    )


def shown(evidence: Evidence) -> list[str]:
    """Every comparison in words; where they are many, those without an effect in one sentence."""
    found = list(evidence.comparisons)
    if len(found) <= _MANY:
        return [item.sentence for item in found]
    lines = [item.sentence for item in found if item.verdict in (Verdict.BETTER, Verdict.WORSE)]
    for verdict, text in (
        (
            Verdict.NO_EFFECT,
            "No effect was shown in {n} of {m} comparisons; their intervals contain zero",
        ),
        (
            Verdict.NOT_TESTABLE,
            f"{{n}} of {{m}} comparisons have fewer than {FEWEST_SEEDS} seeds, or equal differences"
            " in all seeds, so nothing can be concluded",
        ),
    ):
        means = [item.difference.mean for item in found if item.verdict == verdict]
        if means:
            lines.append(
                f"{text.format(n=len(means), m=len(found))}. Their mean differences run from"
                f" {points(min(means))} to {points(max(means))} points of {words(evidence.metric)}."
            )
    return lines


def limits(evidence: Evidence) -> list[str]:
    """What was not shown, and why."""
    return [
        *evidence.notes,
        *_limits_of_seeds(evidence),
        *_limits_of_testing(evidence.held_out, evidence.metric, beyond=", scanners or patients"),
        *_limits_of_comparing(evidence),
        *_limits_of_selection(evidence),
    ]


def general_limits(evidence: Evidence) -> list[str]:
    """What was not shown by intervals over label draws and patients either."""
    return [
        *evidence.notes,
        *_limits_of_testing(evidence.held_out, evidence.metric, beyond=" or scanners"),
        *_limits_of_selection(evidence),
    ]


def _limits_of_seeds(evidence: Evidence) -> list[str]:
    few = ", which is few" if evidence.num_seeds < _ENOUGH_SEEDS else ""
    lines = []
    if evidence.num_seeds > 1:
        lines.append(
            f"Intervals are Student's t over {evidence.num_seeds} seeds{few}, cut where the metric"
            " ends. A seed draws the labelled slides, the first weights and the noise of the"
            " samples; intervals hold that spread only."
        )
    if 0 < evidence.num_seeds < FEWEST_SEEDS:
        count = "is one seed" if evidence.num_seeds == 1 else f"are {evidence.num_seeds} seeds"
        lines.append(
            f"There {count}; no verdict is given from fewer than {FEWEST_SEEDS}, so nothing can be"
            " concluded."
        )
    if evidence.num_failed:
        lines.append(f"{evidence.num_failed} trials failed and are missing from the table.")
    return lines


def _limits_of_testing(found: HeldOut | None, metric: str, *, beyond: str) -> list[str]:
    if found is None:
        return []
    few = ", which is few" if found.slides < _ENOUGH_SLIDES else ""
    lines = [
        f"There is one test split: {found.patches} patches of {found.slides} slides{few}. Nothing"
        f" is shown for other laboratories{beyond}."
    ]
    if found.half_width is not None:
        lines.append(
            f"The test slides alone leave {words(metric)} of one classifier uncertain by about"
            f" {points(found.half_width).lstrip('+')} points either way (bootstrap over slides)."
        )
    if found.short_of_samples:
        lines.append(
            f"{found.short_of_samples} classifiers got fewer samples than their ratio asks for,"
            " because too few were accepted."
        )
    return lines


def _limits_of_comparing(evidence: Evidence) -> list[str]:
    testable = [item for item in evidence.comparisons if item.verdict is not Verdict.NOT_TESTABLE]
    if len(testable) < 2:
        return []
    level = testable[0].level
    expected = len(testable) * (1 - level)
    return [
        f"{len(testable)} intervals are looked at and none is corrected for that: with no effect"
        f" anywhere, about {expected:.1f} of them would exclude zero by chance."
    ]


def _limits_of_selection(evidence: Evidence) -> list[str]:
    accepted = evidence.accepted_fraction
    if accepted is None:
        return []
    line = f"The selection shown accepted {accepted:.0%} of the samples"
    if accepted > _NEARLY_ALL:
        return [
            f"{line}: it hardly rejects, so little but its order can differ from random samples."
        ]
    return [f"{line}. What it looks at are features of networks, not a pathologist's eye."]


def _metrics(root: StoragePath, row: TrialRow) -> Mapping[str, Any]:
    path = open_artifact(root, row.artifact).path / METRICS_FILE
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found
