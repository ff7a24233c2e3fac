"""The outcome of a ceiling as a table of text."""

from collections.abc import Sequence

from histodiff.evaluation.sentences import points, words
from histodiff.evaluation.statistics import Interval
from histodiff.workflows.ceiling.outcome import COMPARED, ArmResult, Outcome
from histodiff.workflows.ceiling.trials import Arm


def text_of(outcome: Outcome) -> str:
    """Table, conclusion and limits for people."""
    setting = outcome.setting
    head = ["arm", "added", *(words(name) for name in COMPARED)]
    head += [f"against {versus}" for versus in (Arm.REAL, Arm.UNTOUCHED)]
    rows = [head, *(_row(arm, outcome) for arm in outcome.arms)]
    title = (
        f"{setting.patches}, split {setting.split}, {len(outcome.seeds)} seeds, {setting.level:.0%}"
        f" intervals; differences in points of {words(setting.metric)}"
    )
    lines = [title, *_aligned(rows), "", *outcome.lines, "", *outcome.limits]
    return "\n".join(lines) + "\n"


def _row(arm: ArmResult, outcome: Outcome) -> list[str]:
    cells = [arm.arm, f"{arm.added:g}"]
    cells += [_score(arm.metrics.get(name)) for name in COMPARED]
    for versus in (Arm.REAL, Arm.UNTOUCHED):
        found = outcome.difference(arm.arm, versus, outcome.setting.metric)
        cells.append("" if found is None else f"{_gain(found.difference)} {found.verdict}")
    return cells


def _score(found: Interval | None) -> str:
    if found is None:
        return "not defined"
    between = "" if found.low is None else f" ({found.low:.3f} to {found.high:.3f})"
    return f"{found.mean:.3f}{between}"


def _gain(found: Interval) -> str:
    if found.low is None or found.high is None:
        return points(found.mean)
    return f"{points(found.mean)} ({points(found.low)} to {points(found.high)})"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
