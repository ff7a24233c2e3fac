"""What a training has measured so far: rows of metrics, and the losses that the next row needs.

The rows are part of a checkpoint, so that a resumed run has the rows of an undisturbed one. How
long it took stands apart from what was computed.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_LOSS = "loss"


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
    terms: Mapping[str, float] = field(default_factory=dict)
    """Terms of the loss by name, unweighted: means over the steps since the row before."""


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
class TrainingRecords:
    """All rows so far, and the losses that rows to come and the divergence monitor need."""

    metrics: list[MetricsRow] = field(default_factory=list)
    validation: list[ValidationRow] = field(default_factory=list)
    timing: list[TimingRow] = field(default_factory=list)
    pending: dict[str, list[float]] = field(default_factory=dict)
    """Losses, and terms by name, of the steps since the last row."""
    skipped: int = 0
    """Skipped steps since the last row."""
    recent: list[float] = field(default_factory=list)
    """Losses of the last steps."""

    def add(
        self, loss: float, *, terms: Mapping[str, float], skipped: bool, num_recent: int
    ) -> None:
        """Takes in a step; the last ``num_recent`` losses are kept for the divergence monitor."""
        for name, value in {_LOSS: loss, **terms}.items():
            self.pending.setdefault(name, []).append(value)
        self.skipped += skipped
        self.recent.append(loss)
        del self.recent[: max(len(self.recent) - num_recent, 0)]

    def end_row(self, *, step: int, images_seen: int, grad_norm: float, lr: float) -> MetricsRow:
        """Ends a row of metrics."""
        means = {name: math.fsum(values) / len(values) for name, values in self.pending.items()}
        loss = means.pop(_LOSS)
        row = MetricsRow(step, images_seen, loss, grad_norm, lr, self.skipped, means)
        self.metrics.append(row)
        self.skipped = 0
        self.pending.clear()
        return row

    def to_json(self) -> bytes:
        """Everything, for a checkpoint; floats survive exactly."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "TrainingRecords":
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
