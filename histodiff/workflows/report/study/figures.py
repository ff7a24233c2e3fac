"""Figures of the study page: learning curves over budgets, and what the guidance scale does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from histodiff.evaluation.sentences import words
from histodiff.workflows.report.comparisons import setting_text
from histodiff.workflows.report.pictures import COLOURS, MUTED, STYLE, Picture, figure_picture

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SPREAD = 0.5
"""Share of the distance between two budgets over which the arms are spread."""


@dataclass(frozen=True)
class CurvePoint:
    """Where an arm is at one budget."""

    budget: Any
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class LearningCurve:
    """An arm over the budgets; a level (no budget of its own) has one point without budget."""

    name: str
    points: Sequence[CurvePoint]
    reference: bool
    """Drawn dashed: what bounds the others, such as perfect samples or all labels."""


def learning_curves(
    curves: Sequence[LearningCurve], budgets: Sequence[Any], *, axis: str, metric: str, caption: str
) -> Picture:
    """Metric over budget, one line per arm with its intervals; arms are moved apart sideways."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.8, 4.8))
        axes = figure.subplots()
        moving = [curve for curve in curves if not _is_level(curve)]
        for place, curve in enumerate(moving):
            offset = _SPREAD * ((place + 0.5) / len(moving) - 0.5)
            _draw(axes, curve, budgets, offset=offset, place=place)
        for curve in (curve for curve in curves if _is_level(curve)):
            axes.axhline(
                curve.points[0].mean, color=MUTED, linewidth=1.2, linestyle=":", label=curve.name
            )
        axes.set_xticks(range(len(budgets)), [setting_text({axis: one}) for one in budgets])
        axes.set_xlim(-0.5, len(budgets) - 0.5)
        axes.set_ylabel(words(metric))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        said = "; ".join(
            f"{curve.name} " + ", ".join(f"{point.mean:.3f}" for point in curve.points)
            for curve in curves
        )
        return figure_picture(figure, alt=f"{words(metric)} by budget: {said}.", caption=caption)


def guidance_figure(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], *, axis: str, caption: str
) -> Picture | None:
    """A panel for each kind of measure: its lines over the guidance scale.

    Args:
        panels: Title of the panel -> name of the line -> (scale, value).
        axis: Name of the scale.
        caption: Below the figure.
    """
    shown = {title: lines for title, lines in panels.items() if lines}
    if not shown:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.9 * len(shown), 3.3))
        for axes, (title, lines) in zip(np.atleast_1d(figure.subplots(1, len(shown))),
                                        shown.items(), strict=True):  # fmt: skip
            for place, (name, points) in enumerate(lines.items()):
                axes.plot(
                    [scale for scale, _ in points], [value for _, value in points],
                    color=COLOURS[place % len(COLOURS)], marker=_MARKERS[place % len(_MARKERS)],
                    markersize=4, linewidth=1.6, label=name,
                )  # fmt: skip
            axes.set_title(title, fontsize=9.5, loc="left")
            axes.set_xlabel(words(axis))
            axes.legend(loc="best", fontsize=8)
        said = "; ".join(
            f"{name} " + ", ".join(f"{value:.3f} at {scale:g}" for scale, value in points)
            for lines in shown.values()
            for name, points in lines.items()
        )
        return figure_picture(figure, alt=f"By {words(axis)}: {said}.", caption=caption)


def _draw(
    axes: Any, curve: LearningCurve, budgets: Sequence[Any], *, offset: float, place: int
) -> None:
    colour = COLOURS[place % len(COLOURS)]
    places = [budgets.index(point.budget) + offset for point in curve.points]
    axes.plot(
        places, [point.mean for point in curve.points], color=colour, label=curve.name,
        marker=_MARKERS[place % len(_MARKERS)], markersize=5, linewidth=1.2,
        linestyle="--" if curve.reference else "-",
    )  # fmt: skip
    for at, point in zip(places, curve.points, strict=True):
        if point.low is not None and point.high is not None:
            axes.plot([at, at], [point.low, point.high], color=colour, linewidth=1.6, alpha=0.7)


def _is_level(curve: LearningCurve) -> bool:
    return len(curve.points) == 1 and curve.points[0].budget is None
