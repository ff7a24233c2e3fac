"""How settings were chosen: heat tables on validation slides, and in words what was taken of what.

Where a sweep chose nothing, its classifiers may still have been scored on validation slides: heat
tables show these, and only those of sweeps from before say what the test gave, and say so.
"""

from collections.abc import Sequence
from dataclasses import replace

from histodiff.evaluation.sentences import words
from histodiff.workflows.report.comparisons import Result, results, setting_text
from histodiff.workflows.report.tables import HeatTable, heat_tables
from histodiff.workflows.sweep.choice import Chosen
from histodiff.workflows.sweep.config import VALIDATION, SweepConfig
from histodiff.workflows.sweep.trial_table import TrialRow


def settings_compared(
    plan: SweepConfig,
    rows: Sequence[TrialRow],
    table: Sequence[Result],
    *,
    metric: str,
    level: float,
) -> list[HeatTable]:
    """Heat tables over settings: of candidates where there was a choice, else of the arms.

    Args:
        plan: The sweep.
        rows: Its trials.
        table: Results of the arms.
        metric: Metric of the report.
        level: Of its intervals.
    """
    if plan.choose is not None:
        candidates = [
            replace(row, arm=row.candidate_of) for row in rows if row.candidate_of is not None
        ]
        control = [row for row in rows if row.arm == plan.control]
        table = results([*control, *candidates], level=level)
        return heat_tables(table, control=plan.control, metric=plan.choose.validation_metric)
    on_validation = f"{VALIDATION}{metric}"
    scored = any(on_validation in result.metrics for result in table)
    return heat_tables(table, control=plan.control, metric=on_validation if scored else metric)


def choice_sentences(choices: Sequence[Chosen]) -> list[str]:
    """What was chosen for every arm, of how many settings, by which mean."""
    return [_sentence(choice) for choice in choices]


def scored_on_test(plan: SweepConfig) -> str | None:
    """Which numbers are of the test slides; None where the sweep does not say."""
    if not plan.on_validation:
        return None
    labels = plan.labels if plan.tested is None else plan.tested
    return (
        "The test slides were scored once, by arms that the config names beforehand:"
        f" {', '.join(labels)}. Everything that was chosen was chosen on validation slides."
    )


def _sentence(choice: Chosen) -> str:
    at = f" at {setting_text(choice.axes)}" if choice.axes else ""
    best = next(option for option in choice.options if option.values == choice.values)
    if len(choice.options) == 1:
        return f"{choice.arm}{at}: {setting_text(choice.values)}, the only setting."
    return (
        f"{choice.arm}{at}: {setting_text(choice.values)}, of {len(choice.options)} settings, by"
        f" {words(choice.metric)} {best.mean:.3f} over {best.seeds} seeds."
    )
