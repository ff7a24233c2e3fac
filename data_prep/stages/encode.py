"""The Encoder of the encode stage: blocks of pixels in, one committed shard out.

Blocks come as they were cheap to read; their rows are cut anew, in order, into forward passes of
``batch`` patches. How rows were read, which worker encodes them, and beside how many others,
changes no byte. Two threads may each have a unit: one of them encodes, while the other reads ahead
or commits.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from histodiff.data_prep.stages.forward import (
    EncodedBlock,
    EncodeSettings,
    ForwardPasses,
    Moments,
    PixelEncoder,
    Precision,
    batches_of,
    torch_threads,
)
from histodiff.data_prep.tissue.overlay import png_bytes
from histodiff.latents import ShardRecord, ShardUnit, ShardWriter
from histodiff.latents.writer import CONSTANT, NON_FINITE, finite_rows
from histodiff.runtime import PixelBlock
from histodiff.runtime.memory import keep_freed_memory

__all__ = ["EncodeSettings", "EncodedShard", "EncoderLoad", "Precision", "ShardEncoder"]

MAX_PICTURES = 16
"""Pictures of quarantined rows that a shard keeps: those of the first rows."""


@dataclass(frozen=True)
class EncodedShard:
    """A committed shard, and where its time went."""

    record: ShardRecord
    seconds: float
    """From the first row that was encoded to the ledger record."""
    busy_seconds: float
    """Of these, the encoder worked."""
    waited_seconds: float
    """Of these, it had no pixels to work on."""


@dataclass
class EncoderLoad:
    """How busy the encoders were, over all shards so far."""

    busy_seconds: float = 0.0
    waited_seconds: float = 0.0

    def add(self, shard: EncodedShard) -> None:
        """Adds a shard's time."""
        self.busy_seconds += shard.busy_seconds
        self.waited_seconds += shard.waited_seconds

    @property
    def busy_share(self) -> float:
        """Share of the encoders' time in which they had pixels; 1 before anything is done."""
        total = self.busy_seconds + self.waited_seconds
        return self.busy_seconds / total if total else 1.0


@dataclass
class _Shard:
    """Rows of a shard while they come."""

    moments: Moments
    seen: npt.NDArray[np.bool_]
    reasons: dict[int, str] = field(default_factory=dict)
    pictures: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)

    def add(self, encoded: EncodedBlock) -> None:
        block = encoded.block
        self.moments[block.positions] = encoded.moments
        self.seen[block.positions] = True
        self.reasons |= block.failures
        self._quarantine(block, _constant(block.pixels), CONSTANT)
        self._quarantine(block, ~finite_rows(encoded.moments), NON_FINITE)

    def _quarantine(self, block: PixelBlock, rows: npt.NDArray[np.bool_], reason: str) -> None:
        for row in np.flatnonzero(rows):
            position = int(block.positions[row])
            if position not in self.reasons:
                self.reasons[position] = reason
                self.pictures[position] = block.pixels[row].copy()
        for position in sorted(self.pictures)[MAX_PICTURES:]:
            del self.pictures[position]


class ShardEncoder:
    """Encodes the blocks of a unit and commits its shard.

    Args:
        load: Gives the autoencoder, on the device where it runs.
        writer: Commits shards.
        settings: Batch, threads and precision.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(
        self,
        load: Callable[[], PixelEncoder],
        *,
        writer: ShardWriter,
        settings: EncodeSettings,
        device: str,
    ) -> None:
        if device == "cpu":
            keep_freed_memory()
        with torch_threads(settings.threads):
            autoencoder = load()
        self._passes = ForwardPasses(autoencoder, settings=settings, device=torch.device(device))
        self._writer = writer
        self._settings = settings
        self._turn = threading.Lock()

    def run(self, unit: ShardUnit, blocks: Iterable[PixelBlock]) -> EncodedShard:
        """Encodes all rows of the unit and commits them; rows that cannot be are quarantined.

        May be called by several threads: forward passes take turns, commits do not.
        """
        with self._turn, torch_threads(self._settings.threads):
            started = time.monotonic()
            waiting = _Waiting(blocks)
            shard = self._encoded(unit, waiting)
            encoded = time.monotonic()
        record = self._writer.write(
            unit.shard,
            shard.moments,
            shard.reasons,
            pictures={place: png_bytes(pixels) for place, pixels in shard.pictures.items()},
        )
        return EncodedShard(
            record,
            seconds=time.monotonic() - started,
            busy_seconds=encoded - started - waiting.seconds,
            waited_seconds=waiting.seconds,
        )

    def _encoded(self, unit: ShardUnit, blocks: Iterable[PixelBlock]) -> _Shard:
        rows = len(unit.patches)
        empty = np.full((rows, *self._writer.layout.moment_shape), np.nan, np.float16)
        shard = _Shard(empty, np.zeros(rows, bool))
        for encoded in self._passes.run(batches_of(blocks, self._settings.batch)):
            shard.add(encoded)
        assert shard.seen.all(), f"shard {unit.shard}: rows without pixels"
        return shard


class _Waiting:
    """Blocks, and how long they were waited for."""

    def __init__(self, blocks: Iterable[PixelBlock]) -> None:
        self._blocks = iter(blocks)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[PixelBlock]:
        return self

    def __next__(self) -> PixelBlock:
        started = time.monotonic()
        try:
            return next(self._blocks)
        finally:
            self.seconds += time.monotonic() - started


def _constant(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which pictures show one colour: no tissue does, a damaged or empty image does."""
    same: npt.NDArray[np.bool_] = (pixels == pixels[:, :1, :1]).all(axis=(1, 2, 3))
    return same
