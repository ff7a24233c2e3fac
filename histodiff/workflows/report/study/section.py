"""The study section of the report, put together: tables, figures, sentences, failure cases."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from histodiff.artifacts import Artifact
from histodiff.evaluation.bootstrap import ArmReplicates, Effect, arm_effect
from histodiff.evaluation.bootstrap.replicates import ALL_METRICS
from histodiff.evaluation.sentences import capitalised, words
from histodiff.storage import StoragePath
from histodiff.telemetry import progress
from histodiff.workflows.report.comparisons import setting_text
from histodiff.workflows.report.pictures import Picture
from histodiff.workflows.report.study.contrasts import (
    Contrast,
    Contrasts,
    Point,
    bounds_of,
    contrasts,
    place_of,
)
from histodiff.workflows.report.study.figures import (
    CurvePoint,
    LearningCurve,
    learning_curves,
)
from histodiff.workflows.report.study.grids import FailureCases, failure_cases
from histodiff.workflows.report.study.guidance import guidance_effect
from histodiff.workflows.report.study.lines import ArmLine, StudyData, study_data
from histodiff.workflows.report.study.statements import (
    fixed_beforehand,
    headroom,
    limits_of,
    needed_text,
    splits_used,
    study_headline,
)
from histodiff.workflows.sweep import SweepConfig
from histodiff.workflows.sweep.study import GENERATIVE, NON_GENERATIVE, StudyConfig
from histodiff.workflows.sweep.trial_table import TrialRow


@dataclass(frozen=True)
class TableLine:
    """A line of the table of one budget."""

    arm: str
    setting: str
    split: str
    num_draws: int
    patch: Mapping[str, Effect | None]
    slide: Mapping[str, Effect | None] | None
    against_control: Contrast | None
    against_best: Contrast | None
    is_control: bool
    is_best_other: bool


@dataclass(frozen=True)
class BudgetTable:
    """All arms at one budget."""

    title: str
    lines: Sequence[TableLine]
    best: Mapping[str, str]
    """Label of the arm of each group that is best on validation."""


@dataclass(frozen=True)
class FamilyLine:
    """A comparison of the family, and how many label draws it would take."""

    contrast: Contrast
    needed: str


@dataclass(frozen=True)
class Confusion:
    """How often patches of a class (row) are called another (column): mean over label draws."""

    arm: str
    at: str
    split: str
    shares: Sequence[Sequence[float]]


@dataclass(frozen=True)
class StudyShown:
    """Everything of the study section."""

    question: str
    protocol: Sequence[str]
    fixed: Sequence[str]
    fingerprint: str
    headline: str
    splits: Sequence[str]
    sentences: Sequence[str]
    limits: Sequence[str]
    headroom: Sequence[str]
    metric: str
    second_metric: str
    half_width_points: float
    tables: Sequence[BudgetTable]
    family: Sequence[FamilyLine]
    curves: Picture | None
    guidance: Picture | None
    classes: Sequence[str]
    confusion: Sequence[Confusion]
    failures: Sequence[FailureCases]


def study_section(
    sweep: Artifact,
    rows: Sequence[TrialRow],
    root: StoragePath,
    *,
    metric: str,
    level: float,
    images_per_class: int,
) -> StudyShown | None:
    """The section of a sweep; None where its config names no study, or no classifier ended.

    Args:
        sweep: The sweep.
        rows: Its trials.
        root: Where trials lie.
        metric: On which arms are compared.
        level: Of intervals.
        images_per_class: Failure cases shown of each class.
    """
    plan = SweepConfig.model_validate(sweep.manifest.config)
    study = plan.study
    if study is None:
        return None
    with progress("study", total=3, unit="parts") as bar:
        data = study_data(root, rows, replicates=study.replicates, seed=study.bootstrap_seed)
        bar.advance()
        if not data.lines:
            return None
        found = contrasts(data, study, control=plan.control, metric=metric, level=level)
        bar.advance()
        best = _shown_lines(found)
        failures = [
            failure_cases(root, rows, line, data.classes, per_class=images_per_class)
            for _, line in best[-2:]
        ]
        bar.advance()
    second = "auc" if metric != "auc" else "balanced_accuracy"
    return StudyShown(
        question=study.question,
        protocol=study.protocol,
        fixed=fixed_beforehand(plan, study, metric=metric, level=level),
        fingerprint=sweep.manifest.fingerprint,
        headline=study_headline(found, study, control=plan.control),
        splits=splits_used(data, found),
        sentences=[contrast.sentence for contrast in found.family],
        limits=limits_of(found, plan, num_failed=sum(row.error is not None for row in rows)),
        headroom=headroom(found, study),
        metric=metric,
        second_metric=second,
        half_width_points=study.half_width_points,
        tables=[_table(point, found, study, level) for point in found.points],
        family=[
            FamilyLine(one, needed_text(one, half_width_points=study.half_width_points))
            for one in found.family
        ],
        curves=_curves(data, plan, study, metric, level),
        guidance=guidance_effect(root, rows, study, metric),
        classes=data.classes,
        confusion=[_confusion(point, line, data) for point, line in best],
        failures=[one for one in failures if one is not None],
    )


def _shown_lines(found: Contrasts) -> list[tuple[Point, ArmLine]]:
    """At every budget the control and the best generative arm."""
    shown = []
    for point in found.points:
        shown.append((point, point.control))
        if GENERATIVE in point.best:
            shown.append((point, point.best[GENERATIVE]))
    return shown


def _table(point: Point, found: Contrasts, study: StudyConfig, level: float) -> BudgetTable:
    lines = []
    best = {group: line.arm for group, line in point.best.items()}
    for line in point.lines:
        place = place_of(point, line)
        scores = line.scores[line.split]
        own = {name: v for name, v in line.settings.items() if name not in point.settings}
        texts = [setting_text(own), *(f"chosen: {setting_text(one)}" for one in line.chosen)]
        lines.append(
            TableLine(
                arm=line.arm,
                setting="; ".join(filter(None, texts)),
                split=line.split,
                num_draws=len(scores.classifiers),
                patch=_effects(scores.patch, study, level),
                slide=None if scores.slide is None else _effects(scores.slide, study, level),
                against_control=found.against_control.get(place),
                against_best=found.against_best.get(place),
                is_control=line is point.control,
                is_best_other=line is point.best.get(NON_GENERATIVE),
            )
        )
    return BudgetTable(setting_text(point.settings), lines, best)


def _effects(
    replicates: Mapping[str, ArmReplicates], study: StudyConfig, level: float
) -> dict[str, Effect | None]:
    return {
        name: arm_effect(
            replicates[name], seed=study.bootstrap_seed, level=level, bounds=bounds_of(name)
        )
        for name in ALL_METRICS
    }


def _curves(
    data: StudyData, plan: SweepConfig, study: StudyConfig, metric: str, level: float
) -> Picture | None:
    if study.budget is None:
        return None
    grouped: defaultdict[tuple[str, str], list[CurvePoint]] = defaultdict(list)
    splits = set()
    for line in data.lines:
        effect = _effects(line.scores[line.split].patch, study, level)[metric]
        if effect is None:
            continue
        own = {name: v for name, v in line.settings.items() if name != study.budget}
        splits.add(line.split)
        grouped[line.arm, setting_text(own)].append(
            CurvePoint(line.settings.get(study.budget), effect.value, effect.low, effect.high)
        )
    references = {study.ceiling, study.all_labels}
    curves = [
        LearningCurve(arm + (f" ({own})" if own else ""), found, arm in references)
        for (arm, own), found in grouped.items()
    ]
    where = " and ".join("validation" if split == "val" else split for split in sorted(splits))
    return learning_curves(
        curves, list(plan.search[study.budget].values), axis=study.budget, metric=metric,
        caption=f"{capitalised(words(metric))} of {where} patches by budget; bars are {level:.0%}"
        " intervals over label draws and patients. Arms are moved apart sideways. Differences are"
        " paired: their intervals are in the tables.",
    )  # fmt: skip


def _confusion(point: Point, line: ArmLine, data: StudyData) -> Confusion:
    count = len(data.classes)
    shares = []
    for found in line.scores[line.split].classifiers.values():
        said_N = found.scored.probability_NK.argmax(axis=1)
        cells = np.zeros((count, count))
        np.add.at(cells, (found.scored.target_N, said_N), 1)
        shares.append(cells / np.maximum(cells.sum(axis=1, keepdims=True), 1))
    mean = np.mean(shares, axis=0)
    return Confusion(line.arm, setting_text(point.settings), line.split, mean.tolist())
