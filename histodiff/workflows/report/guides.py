"""The section of the report about guides: what they know at every noise level, beside chance.

Two tables for each guide: labelled slides that were held out in turn while it was trained, unless
it was calibrated on validation slides, and the validation split. Every sentence is computed from
the numbers it stands beside.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histodiff.artifacts import open_artifact
from histodiff.storage import StoragePath
from histodiff.workflows.report.comparisons import setting_text
from histodiff.workflows.report.pictures import Curve, Picture, curves_figure
from histodiff.workflows.sweep.trial_table import TrialRow

SCORES = ("balanced_accuracy", "auc", "log_loss", "ece")
"""Columns of a table, in order; what chance has none of is compared with nothing."""
_OF_VALIDATION = "accuracy_by_sigma"
_TABLES = {
    "cross_fitted_by_sigma": "labelled slides held out in turn",
    _OF_VALIDATION: "validation slides",
}
_CHANCE = "chance"


@dataclass(frozen=True)
class ScoresShown:
    """Scores of one guide on one kind of slides, means over seeds."""

    name: str
    """Step, kind and setting."""
    judged_on: str
    bins: list[tuple[float, float]]
    """Noise levels."""
    scores: dict[str, list[float | None]]
    """By name, one for each bin; None where a seed has none."""
    num_seeds: int
    verdict: str
    """In how many bins the log loss is below that of chance."""


@dataclass(frozen=True)
class GuidesShown:
    """All guides of a sweep."""

    tables: list[ScoresShown]
    chance: dict[str, float]
    """Scores of who knows nothing."""
    chosen: list[str]
    """What was chosen among candidates, one line for each guide."""
    figures: list[Picture]


def guides_shown(root: StoragePath, rows: Sequence[TrialRow]) -> GuidesShown | None:
    """The guides of a sweep; None where it has none that was scored so."""
    grouped: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row.command != "guide" or row.error is not None:
            continue
        artifact = open_artifact(root, row.artifact)
        found = json.loads((artifact.path / "metrics.json").read_bytes())
        if _CHANCE in found:  # guides of before were scored otherwise
            kind = artifact.manifest.config["kind"]["type"]
            name = f"{row.step} ({', '.join(filter(None, (kind, setting_text(row.axes))))})"
            grouped[name].append(found)
    tables = [
        table
        for name, seeds in grouped.items()
        for key in _TABLES
        if (table := _table(name, key, seeds)) is not None
    ]
    if not tables:
        return None
    chance = {key: float(value) for key, value in next(iter(grouped.values()))[0][_CHANCE].items()}
    return GuidesShown(
        tables, chance,
        [line for name, seeds in grouped.items() for line in _choices(name, seeds)],
        [
            _figure(tables, "log_loss", "log loss", chance),
            _figure(tables, "balanced_accuracy", "balanced accuracy", chance),
        ],
    )  # fmt: skip


def _table(name: str, key: str, seeds: Sequence[Mapping[str, Any]]) -> ScoresShown | None:
    judged_on = _TABLES[key]
    if key == _OF_VALIDATION and _by_validation(seeds):
        judged_on += ", on which it was chosen and calibrated"
    tables = [found[key] for found in seeds if found[key]]
    if not tables:
        return None
    scores = {score: [_mean([bins[n][score] for bins in tables]) for n in range(len(tables[0]))]
              for score in SCORES}  # fmt: skip
    chance = float(seeds[0][_CHANCE]["log_loss"])
    below = sum(loss is not None and loss < chance for loss in scores["log_loss"])
    return ScoresShown(
        name, judged_on, [(each["sigma_low"], each["sigma_high"]) for each in tables[0]], scores,
        len(tables),
        f"log loss below that of chance ({chance:.3f}) in {below} of {len(tables[0])} bins",
    )  # fmt: skip


def _choices(name: str, seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each seed chose, in words; nothing where there was no choice."""
    told = []
    for found in seeds:
        chosen = found.get("chosen", {})
        if "layers" in chosen:
            told.append("layers " + ", ".join(chosen["layers"]))
        if "length" in chosen:
            told.append(f"{chosen['length']:.3g} of the longest training")
    counts = {each: told.count(each) for each in dict.fromkeys(told)}
    if not counts:
        return []
    where = "validation slides" if _by_validation(seeds) else "labelled slides held out in turn"
    return [f"{name}, on {where}: " + "; ".join(f"{each} ({count} of {len(told)})"
                                    for each, count in counts.items())]  # fmt: skip


def _by_validation(seeds: Sequence[Mapping[str, Any]]) -> bool:
    return seeds[0].get("calibrated_on") == "validation"


def _figure(
    tables: Sequence[ScoresShown], score: str, words: str, chance: Mapping[str, float]
) -> Picture:
    curves = [
        Curve(f"{table.name}, {table.judged_on}", _middles(table), _known(table.scores[score]))
        for table in tables
    ]
    level = chance[score]
    curves.append(Curve(f"chance, {level:.3f}", _middles(tables[0]), [level] * len(tables[0].bins)))
    return curves_figure(
        curves, x="noise level sigma", y=words, log="x",
        alt=f"{words.capitalize()} of each guide by noise level, with a line at chance.",
        caption=f"Guides: {words} by noise level, mean over seeds; chance is {level:.3f}.",
    )  # fmt: skip


def _middles(table: ScoresShown) -> list[float]:
    return [float(np.sqrt(low * high)) for low, high in table.bins]


def _known(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
