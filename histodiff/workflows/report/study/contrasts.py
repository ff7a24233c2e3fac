"""Differences of a study's arms: paired, with intervals, corrected over the family it named."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from histodiff.evaluation.bootstrap import DrawsNeeded, Effect, draws_needed, holm, paired_effect
from histodiff.evaluation.metrics import CALIBRATION
from histodiff.evaluation.sentences import capitalised, points, words
from histodiff.evaluation.statistics import SCORE, Bounds, Verdict
from histodiff.workflows.report.comparisons import Settings, setting_text
from histodiff.workflows.report.study.lines import SPLITS, ArmLine, StudyData
from histodiff.workflows.sweep.study import GENERATIVE, NON_GENERATIVE, StudyConfig, group_of


@dataclass(frozen=True)
class Contrast:
    """One arm against another at equal settings, on one split."""

    arm: str
    versus: str
    settings: Settings
    split: str
    metric: str
    effect: Effect
    level: float
    needed: DrawsNeeded | None
    """Label draws for the half-width that the study names; None where it cannot be said."""
    adjusted: float | None = None
    """Holm's adjusted p-value; None outside of the family, or where it could not be tested."""
    in_family: bool = False

    @property
    def verdict(self) -> Verdict:
        """What it shows: by the adjusted p-value in the family, else by its own."""
        p_value = self.adjusted if self.in_family else self.effect.p_value
        return self.effect.verdict(p_value=p_value, level=self.level)

    @property
    def half_width(self) -> float | None:
        """Of the interval, before it is cut where the metric ends."""
        low, high = self.effect.low, self.effect.high
        return None if low is None or high is None else (high - low) / 2

    @property
    def sentence(self) -> str:
        """The contrast in words, with its numbers."""
        at = f" ({setting_text(self.settings)})" if self.settings else ""
        change = f"{points(self.effect.value)} points of {words(self.metric)} on {self.split}"
        subject = f"{capitalised(self.arm)} against {self.versus}{at}"
        if self.effect.untestable is not None:
            return f"{subject}: not testable. {change}: {self.effect.untestable}."
        assert self.effect.low is not None
        assert self.effect.high is not None
        low, high = points(self.effect.low), points(self.effect.high)
        p_value = self.adjusted if self.in_family else self.effect.p_value
        kind = "Holm-adjusted p" if self.in_family else "uncorrected p"
        return (
            f"{subject}: {self.verdict}. {change}, {self.level:.0%} interval {low} to {high},"
            f" {kind} {p_text(p_value)}."
        )


@dataclass(frozen=True)
class Point:
    """One budget (setting of the control): its lines, and the best of both groups."""

    settings: Settings
    control: ArmLine
    lines: Sequence[ArmLine]
    best: Mapping[str, ArmLine]
    """By group, chosen on validation; a group without validation numbers is missing."""


@dataclass(frozen=True)
class Contrasts:
    """All differences: those of the family, and every line against control and best."""

    points: Sequence[Point]
    family: Sequence[Contrast]
    against_control: Mapping[str, Contrast]
    against_best: Mapping[str, Contrast]
    unresolved: Sequence[str]
    """Comparisons of the family that could not be made, in words."""


def contrasts(
    data: StudyData, study: StudyConfig, *, control: str, metric: str, level: float
) -> Contrasts:
    """Every difference of the study.

    Args:
        data: Its lines.
        study: Family, groups, and the bootstrap.
        control: Label of the control.
        metric: Which metric of patches.
        level: Of intervals, and of the family as a whole.
    """
    maker = _Maker(study, metric, level)
    found = _points(data, study, control=control, metric=metric)
    family: dict[tuple[str, str], Contrast] = {}
    unresolved = []
    named = study.family or tuple(
        (arm, control) for arm in dict.fromkeys(line.arm for line in data.lines) if arm != control
    )
    for arm, versus in named:
        made = 0
        for point in found:
            for one in _side(point, arm):
                for other in _side(point, versus):
                    contrast = maker.contrast(one, other, point.settings)
                    if contrast is not None:
                        family.setdefault((key_of(one), key_of(other)), contrast)
                        made += 1
        if not made:
            text = f"{capitalised(arm)} against {versus} could not be compared."
            unresolved.append(text.replace(NON_GENERATIVE, "non-generative"))
    adjusted = holm([one.effect.p_value for one in family.values()] + [None] * len(unresolved))
    corrected = {
        key: replace(one, adjusted=p_value, in_family=True)
        for (key, one), p_value in zip(family.items(), adjusted, strict=False)
    }
    return Contrasts(
        points=found,
        family=list(corrected.values()),
        against_control=_against(found, maker, corrected, lambda point: point.control),
        against_best=_against(
            found, maker, corrected, lambda point: point.best.get(NON_GENERATIVE)
        ),
        unresolved=unresolved,
    )


def key_of(line: ArmLine) -> str:
    """A line's name: arm and settings."""
    return json.dumps([line.arm, dict(line.settings)], sort_keys=True)


def p_text(p_value: float | None) -> str:
    """A p-value in words: ``0.034``, or ``< 0.001``."""
    if p_value is None:
        return "none"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def bounds_of(metric: str) -> Bounds | None:
    """Between what a metric lies."""
    return None if metric in CALIBRATION else SCORE


@dataclass(frozen=True)
class _Maker:
    study: StudyConfig
    metric: str
    level: float

    def contrast(self, arm: ArmLine, control: ArmLine, settings: Settings) -> Contrast | None:
        """The difference on the first split that both were scored on; None without one."""
        split = next((s for s in SPLITS if s in arm.scores and s in control.scores), None)
        if split is None or arm is control:
            return None
        effect = paired_effect(
            arm.scores[split].patch[self.metric],
            control.scores[split].patch[self.metric],
            seed=self.study.bootstrap_seed,
            level=self.level,
            bounds=bounds_of(self.metric),
        )
        if effect is None:
            return None
        needed = None
        if effect.components is not None and effect.untestable is None:
            half_width = self.study.half_width_points / 100
            needed = draws_needed(effect.components, half_width=half_width, level=self.level)
        own = arm.settings or settings
        return Contrast(arm.arm, control.arm, own, split, self.metric, effect, self.level, needed)


def _points(data: StudyData, study: StudyConfig, *, control: str, metric: str) -> list[Point]:
    found = []
    for line in data.lines:
        if line.arm != control:
            continue
        at = [other for other in data.lines if _meets(other, line)]
        best = {}
        if study.best_of is not None:
            for group in (GENERATIVE, NON_GENERATIVE):
                chosen = _best(at, study.best_of.members(group), metric)
                if chosen is not None:
                    best[group] = chosen
        found.append(Point(line.settings, line, at, best))
    return found


def _meets(line: ArmLine, control: ArmLine) -> bool:
    """Whether a line is at the setting of the control; axes that it lacks do not count."""
    return all(
        line.settings[name] == value
        for name, value in control.settings.items()
        if name in line.settings
    )


def _best(lines: Sequence[ArmLine], labels: Sequence[str], metric: str) -> ArmLine | None:
    """The best of a group on validation; the first of equals."""
    sign = -1 if metric in CALIBRATION else 1
    members = [line for line in lines if line.arm in labels and metric in line.validation]
    return max(members, key=lambda line: sign * line.validation[metric], default=None)


def _side(point: Point, side: str) -> list[ArmLine]:
    group = group_of(side)
    if group is not None:
        return [point.best[group]] if group in point.best else []
    return [line for line in point.lines if line.arm == side]


def _against(
    found: Sequence[Point],
    maker: _Maker,
    family: Mapping[tuple[str, str], Contrast],
    other_of: Callable[[Point], ArmLine | None],
) -> dict[str, Contrast]:
    """Every line against another of its point, by the point's and the line's name."""
    made = {}
    for point in found:
        other = other_of(point)
        if other is None:
            continue
        for line in point.lines:
            if line is other:
                continue
            contrast = family.get((key_of(line), key_of(other)))
            contrast = contrast or maker.contrast(line, other, point.settings)
            if contrast is not None:
                made[place_of(point, line)] = contrast
    return made


def place_of(point: Point, line: ArmLine) -> str:
    """Name of a line at a point: a line without budget is at several."""
    return json.dumps([dict(point.settings), key_of(line)], sort_keys=True)
