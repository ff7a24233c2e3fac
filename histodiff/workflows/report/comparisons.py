"""What the trials of a sweep show: means over seeds, paired differences, and what they mean.

Arms are compared at equal settings and equal seeds; the same seed means the same labels in both
arms, so differences are paired. The sentences are computed from the numbers, never written by hand.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from histodiff.evaluation.sentences import capitalised, interval_words, points, words
from histodiff.evaluation.statistics import (
    SCORE,
    Bounds,
    Interval,
    Verdict,
    mean_interval,
    paired_difference,
)
from histodiff.workflows.sweep.trial_table import TrialRow

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """One line of the table: an arm at one setting of its axes, over seeds."""

    arm: str
    settings: Settings
    seeds: tuple[int, ...]
    metrics: Mapping[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """One arm against another at equal settings, over the seeds that both have."""

    arm: str
    versus: str
    settings: Settings
    metric: str
    difference: Interval
    level: float

    @property
    def verdict(self) -> Verdict:
        """What the paired differences allow to be said."""
        return self.difference.verdict

    @property
    def sentence(self) -> str:
        """The comparison in words, with its numbers."""
        subject = f"{capitalised(self.arm)} against {self.versus}{_at(self.settings)}"
        change = f"{points(self.difference.mean)} points of {words(self.metric)}"
        if self.difference.untestable is not None:
            seeds = f"{self.difference.num} seed" + ("s" if self.difference.num > 1 else "")
            return f"{subject}: not testable. {change} in {seeds}. {self.difference.untestable}"
        interval = interval_words(self.difference, level=self.level)
        if self.verdict is Verdict.NO_EFFECT:
            return f"{subject}: no effect shown. {change} ({interval}): the interval contains zero."
        return f"{subject}: {self.verdict}. {change} ({interval})."


def results(rows: Iterable[TrialRow], *, level: float) -> list[Result]:
    """One result per arm and setting, in order of first appearance."""
    grouped: defaultdict[tuple[str, str], list[TrialRow]] = defaultdict(list)
    for row in rows:
        if row.arm is not None and row.error is None:
            grouped[row.arm, _key(row.axes)].append(row)
    return [_result(arm, group, level) for (arm, _), group in grouped.items()]


def comparisons(
    rows: Sequence[TrialRow], *, arms: Sequence[str], control: str, metric: str, level: float
) -> list[Comparison]:
    """Every arm against the control, then the other arms against each other.

    Settings that only the first has (a control has no guidance scale) are ignored in pairing; where
    only the second has one, there is no pairing.
    """
    others = [arm for arm in arms if arm != control]
    pairs = [(arm, control) for arm in others]
    pairs += [(later, earlier) for i, earlier in enumerate(others) for later in others[i + 1 :]]
    return [found for arm, versus in pairs for found in _compared(rows, arm, versus, metric, level)]


def setting_text(settings: Settings) -> str:
    """Settings in words: ``guidance scale 3, ratio 0.5``."""
    return ", ".join(f"{words(name)} {value_text(value)}" for name, value in settings.items())


def _result(arm: str, group: Sequence[TrialRow], level: float) -> Result:
    names = [name for name in group[0].metrics if all(name in row.metrics for row in group)]
    return Result(
        arm=arm,
        settings=dict(group[0].axes),
        seeds=tuple(row.seed for row in group if row.seed is not None),
        metrics={
            name: mean_interval(
                [row.metrics[name] for row in group], level=level, bounds=_bounds(name)
            )
            for name in names
        },
    )


def _bounds(metric: str) -> Bounds | None:
    """Between what a metric lies; a log loss has no upper end."""
    return None if metric.endswith("log_loss") else SCORE


def _compared(
    rows: Sequence[TrialRow], arm: str, versus: str, metric: str, level: float
) -> list[Comparison]:
    treated = _scored(rows, arm, metric)
    controls = _scored(rows, versus, metric)
    if not treated or not controls or not set(controls[0].axes) <= set(treated[0].axes):
        return []
    shared = list(controls[0].axes)
    at = {(_key(_only(row.axes, shared)), row.seed): row.metrics[metric] for row in controls}
    grouped: defaultdict[str, list[TrialRow]] = defaultdict(list)
    for row in treated:
        if (_key(_only(row.axes, shared)), row.seed) in at:
            grouped[_key(row.axes)].append(row)
    return [
        Comparison(
            arm,
            versus,
            dict(group[0].axes),
            metric,
            paired_difference(
                [row.metrics[metric] for row in group],
                [at[_key(_only(row.axes, shared)), row.seed] for row in group],
                level=level,
                bounds=SCORE,
            ),
            level,
        )
        for group in grouped.values()
    ]


def _scored(rows: Sequence[TrialRow], arm: str, metric: str) -> list[TrialRow]:
    return [row for row in rows if row.arm == arm and row.error is None and metric in row.metrics]


def _only(axes: Settings, names: Sequence[str]) -> dict[str, Any]:
    return {name: axes[name] for name in names}


def _key(axes: Settings) -> str:
    return json.dumps(dict(axes), sort_keys=True)


def _at(settings: Settings) -> str:
    return f" ({setting_text(settings)})" if settings else ""


def value_text(value: Any) -> str:
    """A value of an axis in words."""
    return f"{value:g}" if isinstance(value, int | float) else json.dumps(value, sort_keys=True)
