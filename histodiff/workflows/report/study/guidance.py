"""What the guidance scale does: to classifiers on validation, to agreement, and to diversity."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow.parquet as pq

from histodiff.artifacts import open_artifact
from histodiff.evaluation.sentences import words
from histodiff.samples.selection import TABLE
from histodiff.storage import StoragePath
from histodiff.workflows.report.pictures import Picture
from histodiff.workflows.report.study.figures import guidance_figure
from histodiff.workflows.sweep.study import StudyConfig
from histodiff.workflows.sweep.trial_table import TrialRow

_SAMPLES = {
    **{name: name for name in ("precision", "recall", "density", "coverage")},
    "agreement_share": "agreement with a classifier",
}
"""Measures of samples in the table of trials, and what they are called."""
_FEWEST_SCALES = 2


def guidance_effect(
    root: StoragePath, rows: Sequence[TrialRow], study: StudyConfig, metric: str
) -> Picture | None:
    """Validation metric, agreement and diversity over the guidance scale, means over trials.

    None without an axis of the scale, or with one scale alone, which shows no effect.
    """
    if study.guidance is None:
        return None
    scored: defaultdict[str, defaultdict[float, list[float]]] = defaultdict(_lists)
    samples: defaultdict[str, defaultdict[float, list[float]]] = defaultdict(_lists)
    for row in rows:
        scale = {**row.axes, **row.chosen}.get(study.guidance)
        if row.error is not None or not isinstance(scale, int | float):
            continue
        name = f"val_{metric}"
        if row.command == "classify" and not row.chosen and name in row.metrics:
            label = row.candidate_of or row.arm or row.step
            scored[label][float(scale)].append(row.metrics[name])
        for measure, called in _SAMPLES.items():
            value = row.metrics.get(f"samples.{measure}")
            if value is not None:
                samples[called][float(scale)].append(value)
        if row.command == "select":
            agreement = _agreement(root, row)
            if agreement is not None:
                samples["agreement with the nearest class"][float(scale)].append(agreement)
    lines = [*scored.values(), *samples.values()]
    if len({scale for line in lines for scale in line}) < _FEWEST_SCALES:
        return None
    return guidance_figure(
        {
            f"{words(metric)} of validation patches": _means(scored),
            "agreement and diversity of samples": _means(samples),
        },
        axis=study.guidance,
        caption="Means over all trials at a scale. Agreement is the share of samples whose class is"
        " the one asked for: the nearest class in the features of the selection, or the most"
        " probable of a classifier of real patches. That, precision, recall, density and coverage"
        " are what synthesize measured.",
    )  # fmt: skip


def _lists() -> "defaultdict[float, list[float]]":
    return defaultdict(list)


def _means(
    grouped: Mapping[str, Mapping[float, Sequence[float]]],
) -> dict[str, list[tuple[float, float]]]:
    return {
        name: [(scale, float(np.mean(values))) for scale, values in sorted(by_scale.items())]
        for name, by_scale in grouped.items()
    }


def _agreement(root: StoragePath, row: TrialRow) -> float | None:
    """Share of samples whose nearest class is their own; None where no nearest is known."""
    data = (open_artifact(root, row.artifact).path / TABLE).read_bytes()
    table = pq.read_table(io.BytesIO(data), columns=["label", "nearest"]).to_pylist()
    known = [entry for entry in table if entry["nearest"] is not None]
    if not known:
        return None
    return float(np.mean([entry["nearest"] == entry["label"] for entry in known]))
