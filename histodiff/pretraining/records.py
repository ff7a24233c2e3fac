"""Metrics of a run as tables: what was computed, and apart from it how long it took.

``metrics.parquet``, ``validation.parquet`` and ``rollbacks.parquet`` are functions of the config
(up to rounding) and count in the content digest; ``timing.parquet`` is not and does not. The rows
are part of a checkpoint, so that a resumed run has the rows of an undisturbed one.
"""

import dataclasses
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from histodiff.storage import StoragePath, write_bytes
from histodiff.training.divergence import Rollback

METRICS, VALIDATION, TIMING = "metrics.parquet", "validation.parquet", "timing.parquet"
ROLLBACK_TABLE = "rollbacks.parquet"


@dataclass(frozen=True)
class MetricsRow:
    """Training since the row before."""

    step: int
    images_seen: int
    loss: float
    """Mean over the steps since the row before."""
    grad_norm: float
    """Of the last step, before clipping."""
    lr: float
    """Of the last step."""
    skipped_steps: int
    """Steps since the row before that overflowed fp16 and changed no weight."""


@dataclass(frozen=True)
class ValidationRow:
    """Validation loss at one noise level."""

    step: int
    images_seen: int
    sigma: float
    loss: float
    images: int


@dataclass(frozen=True)
class TimingRow:
    """Wall time since the row before, on rank 0."""

    step: int
    seconds: float
    data_wait_seconds: float


@dataclass
class RunRecords:
    """All rows so far, and the losses that rows to come and the watch on leaps need."""

    metrics: list[MetricsRow] = field(default_factory=list)
    validation: list[ValidationRow] = field(default_factory=list)
    timing: list[TimingRow] = field(default_factory=list)
    pending: list[float] = field(default_factory=list)
    """Losses since the last row."""
    skipped: int = 0
    """Skipped steps since the last row."""
    recent: list[float] = field(default_factory=list)
    """Losses of the last steps."""

    def add(self, loss: float, *, skipped: bool, num_recent: int) -> None:
        """Takes in a step; the last ``num_recent`` losses are kept for the watch on leaps."""
        self.pending.append(loss)
        self.skipped += skipped
        self.recent.append(loss)
        del self.recent[: max(len(self.recent) - num_recent, 0)]

    def end_row(self, *, step: int, images_seen: int, grad_norm: float, lr: float) -> MetricsRow:
        """Ends a row of metrics."""
        loss = math.fsum(self.pending) / len(self.pending)
        row = MetricsRow(step, images_seen, loss, grad_norm, lr, self.skipped)
        self.metrics.append(row)
        self.skipped = 0
        self.pending.clear()
        return row

    def to_json(self) -> bytes:
        """Everything, for a checkpoint; floats survive exactly."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "RunRecords":
        """What ``to_json`` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(
            metrics=[MetricsRow(**row) for row in values["metrics"]],
            validation=[ValidationRow(**row) for row in values["validation"]],
            timing=[TimingRow(**row) for row in values["timing"]],
            pending=values["pending"],
            skipped=values["skipped"],
            recent=values["recent"],
        )

    def write_tables(self, folder: StoragePath, rollbacks: Sequence[Rollback]) -> None:
        """Writes the Parquet files."""
        for name, row_type, rows in (
            (METRICS, MetricsRow, self.metrics),
            (VALIDATION, ValidationRow, self.validation),
            (TIMING, TimingRow, self.timing),
            (ROLLBACK_TABLE, Rollback, rollbacks),
        ):
            write_bytes(folder / name, _parquet(row_type, rows))


def _parquet(row_type: type, rows: Sequence[Any]) -> bytes:
    schema = pa.schema(
        [
            (column.name, pa.int64() if column.type in (int, "int") else pa.float64())
            for column in dataclasses.fields(row_type)
        ]
    )
    buffer = io.BytesIO()
    table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=schema)
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
