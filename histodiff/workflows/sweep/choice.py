"""Which setting of an arm is taken: the best on validation slides, as the config says beforehand.

Means over seeds are compared; a setting whose trial failed or was stopped for some seed stands
behind those that ended for more. Among equals the first in the order of the grid is taken.
``choices.json`` has every candidate with its mean, so that a report can show what was left.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from histodiff.storage import StoragePath, read_bytes, write_bytes
from histodiff.workflows.sweep.config import SweepConfig
from histodiff.workflows.sweep.grid import candidates_of
from histodiff.workflows.sweep.trial_table import TrialRow

CHOICES = "choices.json"


@dataclass(frozen=True)
class Option:
    """One setting that might have been chosen."""

    values: Mapping[str, Any]
    mean: float
    """Mean over seeds of the metric on validation patches."""
    seeds: int
    """Seeds for which it ended."""


@dataclass(frozen=True)
class Chosen:
    """What was chosen for one arm, at one setting of the axes that are not chosen."""

    step: str
    arm: str
    axes: Mapping[str, Any]
    metric: str
    values: Mapping[str, Any]
    options: tuple[Option, ...]


def chosen_settings(config: SweepConfig, rows: Sequence[TrialRow]) -> dict[str, Chosen]:
    """The choice for every group of candidates that has one, by the group's key.

    Args:
        config: The sweep.
        rows: Its trials; candidates are those with a ``candidate_of``.
    """
    if config.choose is None:
        return {}
    metric = config.choose.validation_metric
    grouped: defaultdict[str, list[TrialRow]] = defaultdict(list)
    for row in rows:
        if row.candidate_of is not None and metric in row.metrics:
            grouped[candidates_of(config, row.step, row.axes).key].append(row)
    return {key: _chosen(config, group, metric) for key, group in grouped.items()}


def _chosen(config: SweepConfig, rows: Sequence[TrialRow], metric: str) -> Chosen:
    assert config.choose is not None
    sign, axes = config.choose.sign, config.choose.axes
    settings: defaultdict[str, list[TrialRow]] = defaultdict(list)
    for row in rows:
        settings[json.dumps(dict(row.axes), sort_keys=True)].append(row)
    options = [
        Option(
            {name: group[0].axes[name] for name in axes if name in group[0].axes},
            sum(row.metrics[metric] for row in group) / len(group),
            len(group),
        )
        for group in settings.values()
    ]
    best = max(options, key=lambda option: (option.seeds, sign * option.mean))
    first = rows[0]
    return Chosen(
        step=first.step,
        arm=str(first.candidate_of),
        axes=candidates_of(config, first.step, first.axes).axes,
        metric=metric,
        values=best.values,
        options=tuple(options),
    )


def write_choices(path: StoragePath, choices: Sequence[Chosen]) -> None:
    """Writes the choices of the sweep at ``path``."""
    record = [asdict(choice) for choice in choices]
    write_bytes(path / CHOICES, (json.dumps(record, indent=2) + "\n").encode())


def read_choices(path: StoragePath) -> list[Chosen]:
    """The choices of the sweep at ``path``; none where nothing was chosen."""
    try:
        record = json.loads(read_bytes(path / CHOICES))
    except FileNotFoundError:
        return []
    return [
        Chosen(**{**item, "options": tuple(Option(**option) for option in item["options"])})
        for item in record
    ]
