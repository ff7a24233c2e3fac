"""The Encoder of the encode stage: blocks of pixels in, one committed shard out.

Blocks come as they were cheap to read; their rows are cut anew, in order, into forward passes of
``batch`` patches, the last one filled up with zeros. How rows were read, which worker encodes them,
and beside how many others, changes no byte.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histodiff.latents import ShardRecord, ShardUnit, ShardWriter
from histodiff.runtime import PixelBlock

Precision = Literal["fp32", "bf16"]


class PixelEncoder(Protocol):
    """What is needed of an autoencoder."""

    def encode(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the raw latents of uint8 pixels, fp32 BCHW each."""


@dataclass(frozen=True)
class EncodeSettings:
    """What decides the bytes besides weights and pixels."""

    batch: int
    threads: int
    precision: Precision


@dataclass(frozen=True)
class EncodedShard:
    """A committed shard, and how long it took."""

    record: ShardRecord
    seconds: float


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
        with _torch_threads(settings.threads):
            self._autoencoder = load()
        self._writer = writer
        self._settings = settings
        self._device = torch.device(device)

    def run(self, unit: ShardUnit, blocks: Iterable[PixelBlock]) -> EncodedShard:
        """Encodes all rows of the unit and commits them; rows that cannot be are quarantined."""
        started = time.monotonic()
        shape = (len(unit.patches), *self._writer.layout.moment_shape)
        moments = np.full(shape, np.nan, np.float16)
        seen = np.zeros(len(unit.patches), bool)
        failures: dict[int, str] = {}
        with _torch_threads(self._settings.threads):
            for block in _batches(blocks, self._settings.batch):
                moments[block.positions] = self._moments(block.pixels)
                seen[block.positions] = True
                failures |= block.failures
        assert seen.all(), f"shard {unit.shard}: rows without pixels"
        record = self._writer.write(unit.shard, moments, failures)
        return EncodedShard(record, time.monotonic() - started)

    def _moments(self, pixels_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
        """Pixels uint8 NHWC -> moments fp16 ``(n, 2C, h, w)``; values beyond fp16 become inf."""
        rows = len(pixels_BHWC)
        full = np.zeros((self._settings.batch, *pixels_BHWC.shape[1:]), np.uint8)
        full[:rows] = pixels_BHWC
        pixels_BCHW = torch.from_numpy(full).permute(0, 3, 1, 2).contiguous()
        low = self._settings.precision == "bf16"
        autocast = torch.autocast(self._device.type, torch.bfloat16) if low else nullcontext()
        with torch.no_grad(), autocast:
            mean, std = self._autoencoder.encode(pixels_BCHW.to(self._device))
        both = torch.cat([mean, std], dim=1)[:rows].to(torch.float16)
        moments: npt.NDArray[np.float16] = both.cpu().numpy()
        return moments


def _batches(blocks: Iterable[PixelBlock], batch: int) -> Iterator[PixelBlock]:
    """The rows of ``blocks`` in order, ``batch`` at a time; the last time what is left."""
    waiting: list[PixelBlock] = []
    for block in blocks:
        waiting.append(block)
        if sum(len(each.positions) for each in waiting) < batch:
            continue
        joined = _joined(waiting)
        whole = len(joined.positions) // batch * batch
        for start in range(0, whole, batch):
            yield _rows(joined, slice(start, start + batch))
        waiting = [_rows(joined, slice(whole, None))]
    if sum(len(each.positions) for each in waiting):
        yield _joined(waiting)


def _joined(blocks: Sequence[PixelBlock]) -> PixelBlock:
    return PixelBlock(
        np.concatenate([block.positions for block in blocks]),
        np.concatenate([block.pixels for block in blocks]),
        {position: reason for block in blocks for position, reason in block.failures.items()},
    )


def _rows(block: PixelBlock, rows: slice) -> PixelBlock:
    positions = block.positions[rows]
    kept = set(positions.tolist())
    failures = {place: reason for place, reason in block.failures.items() if place in kept}
    return PixelBlock(positions, block.pixels[rows], failures)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Torch's threads for the time of the block; sums on the CPU depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
