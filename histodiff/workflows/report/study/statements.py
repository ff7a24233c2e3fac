"""What the study page says in words; every sentence is computed from the numbers it speaks of."""

from collections.abc import Sequence

from histodiff.evaluation.bootstrap import Effect
from histodiff.evaluation.sentences import capitalised, counted, points, words
from histodiff.evaluation.statistics import FEWEST_SEEDS
from histodiff.workflows.report.comparisons import setting_text, value_text
from histodiff.workflows.report.study.contrasts import Contrast, Contrasts, Point, place_of
from histodiff.workflows.report.study.lines import StudyData
from histodiff.workflows.sweep import SweepConfig
from histodiff.workflows.sweep.study import GENERATIVE, NON_GENERATIVE, StudyConfig

_ENOUGH_DRAWS = 8
_OTHER = "non-generative"


def study_headline(found: Contrasts, study: StudyConfig, *, control: str) -> str:
    """The outcome: of the goal where there is one, and of the family."""
    if not found.family:
        return "No comparison of the family could be made."
    verdicts = counted(item.verdict for item in found.family)
    text = f"Of {len(found.family)} comparisons in the family: {verdicts}."
    goal = goal_sentence(found, study, control=control)
    return text if goal is None else f"{goal} {text}"


def goal_sentence(found: Contrasts, study: StudyConfig, *, control: str) -> str | None:
    """Whether the goal was reached; None where the study has none."""
    if study.goal is None:
        return None
    goal = study.goal
    gains = [
        (point, found.against_control[place_of(point, point.best[GENERATIVE])])
        for point in found.points
        if GENERATIVE in point.best
        and place_of(point, point.best[GENERATIVE]) in found.against_control
    ]
    wanted = (
        f"at least {points(goal.gain_points / 100)} points over {control} at one budget, with an"
        f" interval above zero, and never below {points(goal.worst_points / 100)}"
    )
    if not gains:
        return f"The goal ({wanted}) cannot be judged: no generative arm was chosen on validation."
    reached = [
        contrast
        for _, contrast in gains
        if 100 * contrast.effect.value >= goal.gain_points
        and contrast.effect.low is not None
        and contrast.effect.low > 0
    ]
    kept = all(100 * contrast.effect.value >= goal.worst_points for _, contrast in gains)
    outcome = "reached" if reached and kept else "missed"
    if any(contrast.split != "test" for _, contrast in gains):
        outcome += " as far as validation says, which is no proof"
    each = "; ".join(
        f"{contrast.arm} {points(contrast.effect.value)}{_range(contrast.effect)}{_at(point)}"
        for point, contrast in gains
    )
    return f"The goal ({wanted}) was {outcome}: {each}."


def fixed_beforehand(
    plan: SweepConfig, study: StudyConfig, *, metric: str, level: float
) -> list[str]:
    """What the sweep's config says, in sentences."""
    lines = [
        f"Compared is {words(metric)} of patches, over {len(plan.seeds)} label draws (seeds"
        f" {', '.join(map(str, plan.seeds))}); the control is {plan.control}.",
    ]
    lines += [
        f"{capitalised(words(name))}: {', '.join(map(value_text, axis.values))}."
        for name, axis in plan.search.items()
    ]
    if study.family:
        pairs = "; ".join(f"{arm} against {other}" for arm, other in study.family)
        lines.append(
            f"The family that is corrected for together: {pairs.replace(NON_GENERATIVE, _OTHER)};"
            " at every budget."
        )
    else:
        lines.append(
            f"The family that is corrected for together: every arm against {plan.control}."
        )
    if study.best_of is not None:
        lines.append(
            "The best generative arm is looked for among"
            f" {', '.join(study.best_of.generative)}; the best other one among"
            f" {', '.join(study.best_of.non_generative)}: on validation, at each budget."
        )
    if plan.choose is not None:
        lines.append(
            f"{capitalised(', '.join(map(words, plan.choose.axes)))} are chosen on validation, by"
            f" {words(plan.choose.metric)}."
        )
    if plan.tested is not None:
        lines.append(f"Arms that see the test: {', '.join(plan.tested)}.")
    lines.append(
        f"Intervals have a level of {level:.0%}: paired bootstrap over label draws and test"
        f" patients, {study.replicates:,} replicates; p-values are two-sided."
    )
    return lines


def splits_used(data: StudyData, found: Contrasts) -> list[str]:
    """Which numbers are of validation and which of the test."""
    on_test = [line.arm for line in data.lines if line.split == "test"]
    on_validation = [line.arm for line in data.lines if line.split != "test"]
    lines = []
    if on_test:
        lines.append(f"Numbers of test patches: {_names(on_test)}.")
    if on_validation:
        lines.append(
            f"Numbers of validation patches, on which settings may have been chosen:"
            f" {_names(on_validation)}."
        )
    mixed = [c for c in found.family if c.split != "test"]
    if mixed:
        lines.append(
            f"{len(mixed)} of {len(found.family)} comparisons of the family are of validation."
        )
    for split, scores in {
        split: line.scores[split] for line in data.lines for split in line.scores
    }.items():
        some = next(iter(scores.classifiers.values()))
        name = "test" if split == "test" else "validation"
        lines.append(
            f"The {name} split has {len(some.item_N):,} patches of"
            f" {len(set(some.unit_N)):,} patients (or slides, where patients are unknown)."
        )
        if scores.weights.alone:
            lines.append(
                f"On {name}, {', '.join(scores.weights.alone)} is the only one with mostly its"
                " class: intervals do not hold what another would change."
            )
    return lines


def limits_of(found: Contrasts, plan: SweepConfig, *, num_failed: int) -> list[str]:
    """What was not shown, and why."""
    lines = list(found.unresolved)
    draws = [contrast.effect.num_draws for contrast in found.family]
    if draws and min(draws) < _ENOUGH_DRAWS:
        lines.append(
            f"Comparisons have {_span(draws)} label draws; fewer than {_ENOUGH_DRAWS} are few, and"
            f" fewer than {FEWEST_SEEDS} have no verdict."
        )
    for group in (GENERATIVE, NON_GENERATIVE):
        missing = [point for point in found.points if group not in point.best]
        if plan.study is not None and plan.study.best_of is not None and missing:
            lines.append(
                f"At {len(missing)} of {len(found.points)} budgets no {group.replace('_', '-')} arm"
                " has validation numbers, so the best could not be chosen."
            )
    if num_failed:
        lines.append(f"{num_failed} trials failed and are missing.")
    outside = {
        key for key, contrast in found.against_control.items() if not contrast.in_family
    }  # fmt: skip
    if outside:
        lines.append(
            f"{len(outside)} differences to {plan.control} are outside of the family: their"
            " intervals are not corrected for how many are looked at."
        )
    return lines


def headroom(found: Contrasts, study: StudyConfig) -> list[str]:
    """What perfect samples buy at each budget, and the share of it that was reached."""
    lines = []
    for point in found.points:
        ceiling = next((line for line in point.lines if line.arm == study.ceiling), None)
        contrast = ceiling and found.against_control.get(place_of(point, ceiling))
        if not contrast:
            continue
        text = (
            f"Headroom{_at(point)}: {study.ceiling} gain {points(contrast.effect.value)} points"
            f"{_range(contrast.effect)} over {point.control.arm}"
        )
        best = point.best.get(GENERATIVE)
        gained = best and found.against_control.get(place_of(point, best))
        if gained:
            text += f"; {gained.arm} gains {points(gained.effect.value)}"
            low = contrast.effect.low
            if low is not None and low > 0:
                text += f", {gained.effect.value / contrast.effect.value:.0%} of it"
        lines.append(f"{text}.")
    return lines


def needed_text(contrast: Contrast, *, half_width_points: float) -> str:
    """How many label draws the comparison takes for the half-width, in words."""
    needed = contrast.needed
    if needed is None:
        return "cannot be said"
    if needed.num is None:
        return f"no number suffices: test patients alone leave {100 * needed.least_half_width:.1f}"
    return f"{needed.num:,}"


def _names(arms: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(arms))


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _at(point: Point) -> str:
    return f" ({setting_text(point.settings)})" if point.settings else ""


def _range(effect: Effect) -> str:
    if effect.low is None or effect.high is None:
        return ""
    return f" [{points(effect.low)}, {points(effect.high)}]"
