"""The table of a sweep: one row per trial: its point in the grid; metrics, quality of samples.

Columns: ``step``, ``arm`` (null for what is not compared), ``candidate_of`` (the arm that a setting
of it is chosen for), ``command``, ``artifact``, ``seed``, ``error`` (null for success), ``stopped``
(share of the training after which the scheduler ended it, null if it did not), ``axes`` (JSON),
``chosen`` (JSON: axes whose values were chosen), ``axis.<name>`` and ``metric.<name>`` (float64,
null where there is none). Metrics on validation patches are ``metric.val_<name>``, those on test
patches ``metric.<name>``. ``axis.<name>`` holds numbers where all values of the axis are numbers,
and JSON text otherwise.
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
from histodiff.workflows.sweep.config import VALIDATION, Axis, SweepConfig
from histodiff.workflows.sweep.grid import PlannedTrial, is_candidate

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
    candidate_of: str | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)
    stopped: float | None = None


def trial_row(
    trial: PlannedTrial,
    config: SweepConfig,
    root: StoragePath,
    failures: Mapping[str, str],
    stopped: Mapping[str, float] | None = None,
) -> TrialRow:
    """The row of a trial that ended; reads metrics of a classifier, quality of samples.

    Args:
        trial: The trial.
        config: The sweep.
        root: Where artifacts live.
        failures: Why trials failed, by address.
        stopped: Share of the training after which trials were stopped, by address.
    """
    address = trial.config.output
    error = failures.get(str(address))
    ended = (stopped or {}).get(str(address))
    label = next((arm.label for arm in config.arms if arm.step == trial.step), None)
    candidate = not trial.chosen and is_candidate(config, trial.step, trial.axes)
    metrics = _metrics(trial.command, root, address) if error is None and ended is None else {}
    if candidate:  # one without rivals is scored on the test at once; the choice sees none of it
        metrics = {name: metrics[name] for name in metrics if name.startswith(VALIDATION)}
    return TrialRow(
        step=trial.step,
        arm=None if candidate else label,
        command=trial.command,
        artifact=address,
        seed=trial.seed,
        axes=trial.axes,
        error=error,
        metrics=metrics,
        candidate_of=label if candidate else None,
        chosen=trial.chosen,
        stopped=ended,
    )


def classifier_metrics(root: StoragePath, address: Reference) -> dict[str, float]:
    """Metrics of a finished classifier that are defined: of test patches, and ``val_`` of others.

    A classifier that was not scored on a split has none of it.
    """
    artifact = open_artifact(root, address)
    found = json.loads((artifact.path / METRICS_FILE).read_bytes())
    of_split = {"": found.get("patch", {}), VALIDATION: found.get("val", {}).get("patch", {})}
    return {
        f"{prefix}{name}": float(value)
        for prefix, metrics in of_split.items()
        for name, value in metrics.items()
        if value is not None
    }


def sample_metrics(root: StoragePath, address: Reference) -> dict[str, float]:
    """Quality of finished samples, as ``samples.<measure>``; empty where it was not measured."""
    contents = open_artifact(root, address).manifest.contents
    found = {
        f"samples.{name}": float(measure["value"])
        for name, measure in contents.get("quality", {"measures": {}})["measures"].items()
    }
    if "agreement" in contents:
        for name in ("share", "mean_probability"):
            found[f"samples.agreement_{name}"] = float(contents["agreement"][name]["value"])
    if "memorisation" in contents:
        found["samples.memorised_share"] = float(contents["memorisation"]["share"])
    return found


def _metrics(command: str, root: StoragePath, address: Reference) -> dict[str, float]:
    match command:
        case "classify":
            return classifier_metrics(root, address)
        case "synthesize":
            return sample_metrics(root, address)
    return {}


def write_trials(path: StoragePath, rows: Sequence[TrialRow], config: SweepConfig) -> None:
    """Writes the table of the sweep at ``path``."""
    columns: dict[str, pa.Array] = {
        "step": pa.array([row.step for row in rows], pa.string()),
        "arm": pa.array([row.arm for row in rows], pa.string()),
        "candidate_of": pa.array([row.candidate_of for row in rows], pa.string()),
        "command": pa.array([row.command for row in rows], pa.string()),
        "artifact": pa.array([str(row.artifact) for row in rows], pa.string()),
        "seed": pa.array([row.seed for row in rows], pa.int64()),
        "error": pa.array([row.error for row in rows], pa.string()),
        "stopped": pa.array([row.stopped for row in rows], pa.float64()),
        "axes": pa.array([json.dumps(dict(row.axes), sort_keys=True) for row in rows], pa.string()),
        "chosen": pa.array([json.dumps(dict(row.chosen), sort_keys=True) for row in rows]),
    }
    for name, axis in config.search.items():
        values = [{**row.axes, **row.chosen}.get(name) for row in rows]
        columns[f"axis.{name}"] = _axis_column(axis, values)
    for name in sorted({metric for row in rows for metric in row.metrics}):
        columns[f"metric.{name}"] = pa.array([row.metrics.get(name) for row in rows], pa.float64())
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="NONE")
    write_bytes(path / TABLE, buffer.getvalue())


def read_trials(path: StoragePath) -> list[TrialRow]:
    """The rows of the sweep at ``path``; an older table lacks the columns of choosing."""
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
            candidate_of=row.get("candidate_of"),
            chosen=json.loads(row.get("chosen") or "{}"),
            stopped=row.get("stopped"),
        )
        for row in table.to_pylist()
    ]


def _axis_column(axis: Axis, values: Sequence[Any]) -> pa.Array:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in axis.values):
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    texts = [None if value is None else json.dumps(value, sort_keys=True) for value in values]
    return pa.array(texts, pa.string())
