"""Heat tables: the mean of a metric over two settings of an arm, with colour and number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from histodiff.workflows.report.comparisons import Result, Settings, setting_text

_PALE, _STRONG = 0.06, 0.42


@dataclass(frozen=True)
class Cell:
    """One mean, and how strongly its cell is coloured (opacity)."""

    mean: float
    opacity: float


@dataclass(frozen=True)
class HeatTable:
    """Means of one arm over two axes; a cell is None where there is no result."""

    arm: str
    metric: str
    at: str
    """The settings that all cells share, in words."""
    row_axis: str
    column_axis: str
    rows: Sequence[Any]
    columns: Sequence[Any]
    cells: Sequence[Sequence[Cell | None]]


def heat_tables(results: Sequence[Result], *, control: str, metric: str) -> list[HeatTable]:
    """A table for every arm with at least two axes that the control does not have."""
    own = {name for result in results if result.arm == control for name in result.settings}
    tables = []
    for arm in dict.fromkeys(result.arm for result in results if result.arm != control):
        mine = [result for result in results if result.arm == arm and metric in result.metrics]
        axes = [name for name in (mine[0].settings if mine else {}) if name not in own]
        if len(axes) < 2 or not _varies(mine, axes[0]) or not _varies(mine, axes[1]):
            continue
        for rest in _distinct([_without(result.settings, axes[:2]) for result in mine]):
            group = [item for item in mine if _without(item.settings, axes[:2]) == rest]
            tables.append(_table(arm, rest, axes[0], axes[1], group, metric))
    return tables


def _table(
    arm: str, rest: Settings, row_axis: str, column_axis: str, group: Sequence[Result], metric: str
) -> HeatTable:
    means = {
        (repr(item.settings[row_axis]), repr(item.settings[column_axis])): item.metrics[metric].mean
        for item in group
    }
    low, high = min(means.values()), max(means.values())
    rows = _distinct([item.settings[row_axis] for item in group])
    columns = _distinct([item.settings[column_axis] for item in group])

    def cell(row: Any, column: Any) -> Cell | None:
        mean = means.get((repr(row), repr(column)))
        if mean is None:
            return None
        share = (mean - low) / (high - low) if high > low else 0.0
        return Cell(mean, _PALE + share * (_STRONG - _PALE))

    return HeatTable(
        arm, metric, setting_text(rest), row_axis, column_axis, rows, columns,
        [[cell(row, column) for column in columns] for row in rows],
    )  # fmt: skip


def _without(settings: Settings, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def _varies(results: Sequence[Result], axis: str) -> bool:
    return len(_distinct([result.settings[axis] for result in results])) > 1


def _distinct(values: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
