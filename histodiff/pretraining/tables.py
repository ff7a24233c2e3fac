"""The tables that pre-training publishes: what was computed, and apart from it how long it took.

``metrics.parquet``, ``validation.parquet`` and ``rollbacks.parquet`` are functions of the config
(up to rounding) and count in the content digest; ``timing.parquet`` is not and does not.
"""

import io
from collections.abc import Sequence
from typing import Any, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from histodiff.storage import StoragePath, write_bytes
from histodiff.training import MetricsRow, Rollback, TimingRow, TrainingRecords, ValidationRow

METRICS, VALIDATION, TIMING = "metrics.parquet", "validation.parquet", "timing.parquet"
ROLLBACK_TABLE = "rollbacks.parquet"
_KINDS = {int: pa.int64(), float: pa.float64()}


def write_tables(
    folder: StoragePath, records: TrainingRecords, rollbacks: Sequence[Rollback]
) -> None:
    """Writes the Parquet files."""
    for name, row_type, rows in (
        (METRICS, MetricsRow, records.metrics),
        (VALIDATION, ValidationRow, records.validation),
        (TIMING, TimingRow, records.timing),
        (ROLLBACK_TABLE, Rollback, rollbacks),
    ):
        write_bytes(folder / name, _parquet(row_type, rows))


def _parquet(row_type: type, rows: Sequence[Any]) -> bytes:
    """Columns are the fields that are numbers."""
    columns = {
        name: pa.array([getattr(row, name) for row in rows], _KINDS[kind])
        for name, kind in get_type_hints(row_type).items()
        if kind in _KINDS
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()
