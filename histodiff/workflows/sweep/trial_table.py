"""The table of a sweep: one row per trial: its point in the grid; metrics, quality of samples.

Columns: ``step``, ``arm`` (null for steps that are not compared), ``command``, ``artifact``,
``seed``, ``error`` (null for success), ``axes`` (JSON), ``axis.<name>`` and ``metric.<name>``
(float64, null where there is none). ``axis.<name>`` holds numbers where all values of the axis are
numbers, and JSON text otherwise.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from histodiff.artifacts import Reference, open_artifact
from histodiff.storage import StoragePath, write_bytes
from histodiff.workflows.sweep.config import Axis, SweepConfig
from histodiff.workflows.sweep.grid import PlannedTrial

TABLE = "trials.parquet"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class TrialRow:
    """One trial of a sweep, as tabulated."""

    step: str
    arm: str | None
    command: str
    artifact: Reference
    seed: int | None
    axes: Mapping[str, Any]
    error: str | None
    metrics: Mapping[str, float] = field(default_factory=dict)


def trial_row(
    trial: PlannedTrial, config: SweepConfig, root: StoragePath, failures: Mapping[str, str]
) -> TrialRow:
    """The row of a trial that ended; reads metrics of a classifier, quality of samples."""
    address = trial.config.output
    error = failures.get(str(address))
    metrics: dict[str, float] = {}
    if trial.command == "classify" and error is None:
        metrics = classifier_metrics(root, address)
    elif trial.command == "synthesize" and error is None:
        metrics = sample_metrics(root, address)
    return TrialRow(
        step=trial.step,
        arm=next((arm.label for arm in config.arms if arm.step == trial.step), None),
        command=trial.command,
        artifact=address,
        seed=trial.seed,
        axes=trial.axes,
        error=error,
        metrics=metrics,
    )


def classifier_metrics(root: StoragePath, address: Reference) -> dict[str, float]:
    """Metrics of a finished classifier on the test patches; those that are defined."""
    artifact = open_artifact(root, address)
    found = json.loads((artifact.path / METRICS_FILE).read_bytes())
    return {name: float(value) for name, value in found["patch"].items() if value is not None}


def sample_metrics(root: StoragePath, address: Reference) -> dict[str, float]:
    """Quality of finished samples, as ``samples.<measure>``; empty where it was not measured."""
    contents = open_artifact(root, address).manifest.contents
    found = {
        f"samples.{name}": float(measure["value"])
        for name, measure in contents.get("quality", {"measures": {}})["measures"].items()
    }
    if "memorisation" in contents:
        found["samples.memorised_share"] = float(contents["memorisation"]["share"])
    return found


def write_trials(path: StoragePath, rows: Sequence[TrialRow], config: SweepConfig) -> None:
    """Writes the table of the sweep at ``path``."""
    columns: dict[str, pa.Array] = {
        "step": pa.array([row.step for row in rows], pa.string()),
        "arm": pa.array([row.arm for row in rows], pa.string()),
        "command": pa.array([row.command for row in rows], pa.string()),
        "artifact": pa.array([str(row.artifact) for row in rows], pa.string()),
        "seed": pa.array([row.seed for row in rows], pa.int64()),
        "error": pa.array([row.error for row in rows], pa.string()),
        "axes": pa.array([json.dumps(dict(row.axes), sort_keys=True) for row in rows], pa.string()),
    }
    for name, axis in config.search.items():
        columns[f"axis.{name}"] = _axis_column(axis, [row.axes.get(name) for row in rows])
    for name in sorted({metric for row in rows for metric in row.metrics}):
        columns[f"metric.{name}"] = pa.array([row.metrics.get(name) for row in rows], pa.float64())
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="NONE")
    write_bytes(path / TABLE, buffer.getvalue())


def read_trials(path: StoragePath) -> list[TrialRow]:
    """The rows of the sweep at ``path``."""
    table = pq.read_table(io.BytesIO((path / TABLE).read_bytes()))
    return [
        TrialRow(
            step=row["step"],
            arm=row["arm"],
            command=row["command"],
            artifact=Reference(row["artifact"]),
            seed=row["seed"],
            axes=json.loads(row["axes"]),
            error=row["error"],
            metrics={
                key.removeprefix("metric."): value
                for key, value in row.items()
                if key.startswith("metric.") and value is not None
            },
        )
        for row in table.to_pylist()
    ]


def _axis_column(axis: Axis, values: Sequence[Any]) -> pa.Array:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in axis.values):
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    texts = [None if value is None else json.dumps(value, sort_keys=True) for value in values]
    return pa.array(texts, pa.string())
