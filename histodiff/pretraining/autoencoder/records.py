"""The losses of a run, term by term, as they lie in checkpoints and in ``losses.parquet``."""

import dataclasses
import io
import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from histodiff.storage import StoragePath, write_bytes

LOSSES = "losses.parquet"


@dataclass
class LossRecords:
    """All rows so far, and the losses that the next row is the mean of."""

    rows: list[dict[str, float | None]] = field(default_factory=list)
    pending: dict[str, list[float]] = field(default_factory=dict)

    def add(self, loss: float, terms: Mapping[str, float]) -> None:
        """Takes in a step."""
        pending = defaultdict(list, self.pending)
        for name, value in {"loss": loss, **terms}.items():
            pending[name].append(value)
        self.pending = dict(pending)

    def end_row(self, *, step: int, images_seen: int, grad_norm: float, lr: float) -> float:
        """Ends a row and returns its mean loss."""
        means = {name: math.fsum(values) / len(values) for name, values in self.pending.items()}
        clock: dict[str, float] = {"step": step, "images_seen": images_seen}
        self.rows.append({**clock, **means, "grad_norm": grad_norm, "lr": lr})
        self.pending = {}
        return means["loss"]

    def to_json(self) -> bytes:
        """Everything, for a checkpoint; floats survive exactly."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "LossRecords":
        """What ``to_json`` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(values["rows"], values["pending"])

    def write_table(self, folder: StoragePath) -> None:
        """Writes ``losses.parquet``; a term that was not yet in the loss is null."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        clock = ("step", "images_seen")
        types = {name: pa.int64() if name in clock else pa.float64() for name in names}
        columns = {
            name: pa.array([row.get(name) for row in self.rows], types[name]) for name in names
        }
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer, compression="zstd")
        write_bytes(folder / LOSSES, buffer.getvalue())
