"""Small result tables that several commands write."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from histodiff.storage import StoragePath, write_bytes
from histodiff.training import MetricsRow

LOSSES = "losses.parquet"


def write_losses(path: StoragePath, rows: Sequence[MetricsRow]) -> None:
    """Writes ``losses.parquet``: step and mean loss since the row before."""
    write_table(
        path / LOSSES,
        {
            "step": [row.step for row in rows],
            "loss": [row.loss for row in rows],
        },
    )


def write_table(path: StoragePath, columns: Mapping[str, Any]) -> None:
    """Writes columns as one Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())
