"""The losses of a run, term by term, as a table: ``losses.parquet``."""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from histodiff.storage import StoragePath, write_bytes
from histodiff.training import MetricsRow

LOSSES = "losses.parquet"


def write_losses(folder: StoragePath, rows: Sequence[MetricsRow]) -> None:
    """Writes ``losses.parquet``; a term that was not yet in the loss is null."""
    terms = dict.fromkeys(name for row in rows for name in row.terms)
    columns = {
        "step": pa.array([row.step for row in rows], pa.int64()),
        "images_seen": pa.array([row.images_seen for row in rows], pa.int64()),
        "loss": pa.array([row.loss for row in rows], pa.float64()),
        **{name: pa.array([row.terms.get(name) for row in rows], pa.float64()) for name in terms},
        "grad_norm": pa.array([row.grad_norm for row in rows], pa.float64()),
        "lr": pa.array([row.lr for row in rows], pa.float64()),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    write_bytes(folder / LOSSES, buffer.getvalue())
