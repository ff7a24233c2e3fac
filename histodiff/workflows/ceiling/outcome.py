"""What the classifiers of a ceiling show: means over seeds, paired differences, and one line.

The line is computed from the intervals: how large the headroom is (untouched patches against real
ones alone), what of it survives an autoencoder, and whether samples behind it can help at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from histodiff.classification.stand_ins import StandIn
from histodiff.evaluation.metrics import METRICS
from histodiff.evaluation.sentences import interval_words, points, words
from histodiff.evaluation.statistics import (
    SCORE,
    Interval,
    Verdict,
    mean_interval,
    paired_difference,
)
from histodiff.workflows.ceiling.trials import Arm, TrialScore

COMPARED = ("balanced_accuracy", "auc")
"""Metrics on which arms are compared."""
_ENOUGH_SEEDS = 5
_ENOUGH_SLIDES = 30


@dataclass(frozen=True)
class ArmScores:
    """The scores of one arm, seed by seed."""

    arm: Arm
    autoencoder: str | None
    seeds: Sequence[Sequence[TrialScore]]
    """Of each seed, its folds."""

    @property
    def name(self) -> str:
        """``real``, ``untouched``, ``reconstructed (autoencoders/x@v1)``."""
        return str(self.arm) if self.autoencoder is None else f"{self.arm} ({self.autoencoder})"

    def values(self, metric: str) -> list[float] | None:
        """One value per seed, the mean over its folds; None where it is not defined."""
        found = [[score.metrics[metric] for score in folds] for folds in self.seeds]
        if any(value is None for values in found for value in values):
            return None
        return [float(np.mean(np.array(values, float))) for values in found]

    def mean_count(self, field_name: str) -> float:
        """Mean over seeds of the patches that the classifiers of a seed learned from."""
        return float(
            np.mean([[getattr(score, field_name) for score in folds] for folds in self.seeds])
        )


@dataclass(frozen=True)
class ArmResult:
    """One line of the table."""

    arm: str
    real: float
    """Labelled patches that a classifier learned from, mean over seeds."""
    added: float
    """Patches that joined them, mean over seeds."""
    metrics: Mapping[str, Interval]
    values: Mapping[str, Sequence[float]]
    """One value per seed."""


@dataclass(frozen=True)
class Difference:
    """One arm against another on one metric, paired by seed."""

    arm: str
    versus: str
    metric: str
    difference: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Setting:
    """What the classifiers were trained for and scored on."""

    patches: str
    metric: str
    level: float
    stand_in: StandIn
    folds: int
    split: str
    scored_patches: int
    scored_slides: int
    seen: tuple[str, ...] = field(default=())
    """Autoencoders that were trained on these patches."""


@dataclass(frozen=True)
class Outcome:
    """Everything that is said of a ceiling."""

    setting: Setting
    seeds: tuple[int, ...]
    arms: tuple[ArmResult, ...]
    differences: tuple[Difference, ...]
    lines: tuple[str, ...]
    """The conclusion: a line for each autoencoder."""
    limits: tuple[str, ...]

    def difference(self, arm: str, versus: str, metric: str) -> Difference | None:
        """One of the differences; None where the metric is not defined."""
        for item in self.differences:
            if (item.arm, item.versus, item.metric) == (arm, versus, metric):
                return item
        return None

    def json_ready(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)


def outcome(setting: Setting, seeds: Sequence[int], arms: Sequence[ArmScores]) -> Outcome:
    """What the arms show; the first two are ``real`` and ``untouched``."""
    real, untouched, *through = arms
    pairs = [(untouched, real), *((arm, other) for arm in through for other in (real, untouched))]
    differences = [
        found
        for arm, versus in pairs
        for metric in COMPARED
        if (found := _difference(arm, versus, metric, setting.level)) is not None
    ]
    return Outcome(
        setting=setting,
        seeds=tuple(seeds),
        arms=tuple(_result(arm, setting.level) for arm in arms),
        differences=tuple(differences),
        lines=_lines(setting, differences, untouched, through),
        limits=_limits(setting, len(seeds), untouched),
    )


def _result(arm: ArmScores, level: float) -> ArmResult:
    values = {name: found for name in METRICS if (found := arm.values(name)) is not None}
    return ArmResult(
        arm=arm.name,
        real=arm.mean_count("real"),
        added=arm.mean_count("added"),
        metrics={
            name: mean_interval(found, level=level, bounds=SCORE) for name, found in values.items()
        },
        values=values,
    )


def _difference(arm: ArmScores, versus: ArmScores, metric: str, level: float) -> Difference | None:
    treated, controls = arm.values(metric), versus.values(metric)
    if treated is None or controls is None:
        return None
    found = paired_difference(treated, controls, level=level, bounds=SCORE)
    return Difference(arm.name, versus.name, metric, found, found.verdict)


def _lines(
    setting: Setting,
    differences: Sequence[Difference],
    untouched: ArmScores,
    through: Sequence[ArmScores],
) -> tuple[str, ...]:
    found = {
        (item.arm, item.versus): item.difference
        for item in differences
        if item.metric == setting.metric
    }
    headroom = found[untouched.name, Arm.REAL]
    if not through:
        text = _amount(headroom, setting)
        return (f"Headroom: patches that stand for perfect samples add {text}.",)
    return tuple(
        conclusion(
            str(arm.autoencoder),
            headroom=headroom,
            gain=found[arm.name, Arm.REAL],
            loss=found[arm.name, untouched.name],
            metric=setting.metric,
            level=setting.level,
        )
        for arm in through
    )


def conclusion(
    autoencoder: str,
    *,
    headroom: Interval,
    gain: Interval,
    loss: Interval,
    metric: str,
    level: float,
) -> str:
    """One line: whether samples behind the autoencoder can help, with the numbers.

    Args:
        autoencoder: Its name.
        headroom: Untouched patches against real ones alone.
        gain: Reconstructed patches against real ones alone.
        loss: Reconstructed patches against untouched ones.
        metric: What the differences are of.
        level: Of the intervals.
    """
    numbers = (
        f"perfect samples through it add {_with_verdict(gain, metric, level)}, against untouched"
        f" ones {_briefly(loss)}. Headroom, untouched against none: {_briefly(headroom)}."
    )
    reason = gain.untestable or headroom.untestable
    if gain.verdict is Verdict.BETTER:
        return f"Samples behind {autoencoder} can help: {numbers}"
    if reason is not None:
        return f"Whether samples behind {autoencoder} can help is not testable: {numbers} {reason}"
    if headroom.verdict is not Verdict.BETTER:
        return (
            f"No headroom was shown in {headroom.num} seeds, so no samples are known to help here,"
            f" whatever the autoencoder. {autoencoder}: {numbers}"
        )
    return f"No generator behind {autoencoder} can help, as far as {gain.num} seeds show: {numbers}"


def _with_verdict(found: Interval, metric: str, level: float) -> str:
    interval = interval_words(found, level=level)
    return f"{points(found.mean)} points of {words(metric)} ({interval}: {found.verdict})"


def _briefly(found: Interval) -> str:
    """As ``_with_verdict``, after the metric and the number of seeds have been said."""
    if found.low is None or found.high is None:
        return f"{points(found.mean)} ({found.verdict})"
    return f"{points(found.mean)} ({points(found.low)} to {points(found.high)}: {found.verdict})"


def _amount(found: Interval, setting: Setting) -> str:
    text = _with_verdict(found, setting.metric, setting.level)
    return text if found.untestable is None else f"{text}; {found.untestable.rstrip('.')}"


def _limits(setting: Setting, num_seeds: int, untouched: ArmScores) -> tuple[str, ...]:
    lines = [_limit_of_stand_ins(setting)]
    added, wanted = untouched.mean_count("added"), untouched.mean_count("wanted")
    if added < wanted:
        lines.append(f"There are {added:g} such patches on average, {wanted:g} were to join.")
    few_slides = ", which is few" if setting.scored_slides < _ENOUGH_SLIDES else ""
    few_seeds = ", which is few" if num_seeds < _ENOUGH_SEEDS else ""
    lines.append(
        f"Scored on {setting.scored_patches} patches of {setting.scored_slides} slides of split"
        f" {setting.split}{few_slides}; {num_seeds} seeds{few_seeds}. Intervals hold the spread"
        " over seeds only."
    )
    lines += [
        f"{name} was trained on patches of this target: what it makes of them may be better than"
        " what it decodes of new ones."
        for name in setting.seen
    ]
    return tuple(lines)


def _limit_of_stand_ins(setting: Setting) -> str:
    match setting.stand_in:
        case StandIn.OTHER_SLIDES:
            return (
                "Perfect samples are real patches of training slides without a label in the budget,"
                " with their true labels."
            )
        case StandIn.OTHER_PATCHES:
            return (
                "Perfect samples are real training patches beyond the budget with their true"
                " labels, in part of the labelled slides: less new than samples could be."
            )
        case StandIn.CROSS_FITTED:
            return (
                f"There are no true labels beyond the budget. It was cross-fitted in"
                f" {setting.folds} parts: each stood for perfect samples while the rest was learned"
                " from, so fewer labels were learned from than the budget holds."
            )
