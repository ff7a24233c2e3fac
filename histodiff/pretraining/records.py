"""Metrics of a run as tables: what was computed, and apart from it how long it took.

``metrics.parquet`` and ``validation.parquet`` are functions of the config (up to rounding) and
count in the content digest; ``timing.parquet`` is not and does not. The rows are part of a
checkpoint, so that a resumed run has the rows of an undisturbed one.
"""

import dataclasses
import io
import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from histodiff.storage import StoragePath, write_bytes

METRICS, VALIDATION, TIMING = "metrics.parquet", "validation.parquet", "timing.parquet"


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
    """All rows so far, and the losses since the last row."""

    metrics: list[MetricsRow] = field(default_factory=list)
    validation: list[ValidationRow] = field(default_factory=list)
    timing: list[TimingRow] = field(default_factory=list)
    pending: list[float] = field(default_factory=list)

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
        )

    def write_tables(self, folder: StoragePath) -> None:
        """Writes the Parquet files."""
        for name, row_type, rows in (
            (METRICS, MetricsRow, self.metrics),
            (VALIDATION, ValidationRow, self.validation),
            (TIMING, TimingRow, self.timing),
        ):
            write_bytes(folder / name, _parquet(row_type, rows))


def _parquet(row_type: type, rows: list[Any]) -> bytes:
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
