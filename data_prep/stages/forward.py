"""Forward passes of the encode stage: batches of uint8 pixels in, fp16 moments out, in order.

Pixels stay uint8, channels last, until they are on the device. On a GPU the next batch is copied
and started before the moments of the last one are taken: both copies are pinned and asynchronous,
and the device always has work. A pass always has ``batch`` rows, the last filled up with zeros.
"""

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histodiff.errors import ConfigError
from histodiff.runtime import PixelBlock

Precision = Literal["fp32", "bf16"]
Moments = npt.NDArray[np.float16]
Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


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
    compiled: bool = False


@dataclass(frozen=True)
class EncodedBlock:
    """A block of at most ``batch`` rows, and its moments, fp16 ``(n, 2C, h, w)``."""

    block: PixelBlock
    moments: Moments


@dataclass(frozen=True)
class _Flying:
    """Moments on their way to ``host``; there when ``done`` has happened."""

    block: PixelBlock
    host: Tensor
    done: torch.cuda.Event | None

    def landed(self) -> EncodedBlock:
        if self.done is not None:
            self.done.synchronize()
        return EncodedBlock(self.block, self.host[: len(self.block.positions)].numpy())


class ForwardPasses:
    """Runs an autoencoder on batches.

    Args:
        autoencoder: On the device already.
        settings: Batch, precision, and whether the autoencoder is compiled, at the first batch.
        device: ``cpu`` or ``cuda``.

    Raises:
        ConfigError: It is to be compiled, and there is no compiler.
    """

    def __init__(
        self, autoencoder: PixelEncoder, *, settings: EncodeSettings, device: torch.device
    ) -> None:
        self._encode: Encode = autoencoder.encode
        if settings.compiled:
            self._encode = _compiled(autoencoder.encode, device)
        self._settings = settings
        self._device = device
        self._pinned = device.type == "cuda"

    def run(self, batches: Iterable[PixelBlock]) -> Iterator[EncodedBlock]:
        """Moments of every batch, in order; values beyond fp16 become inf."""
        flying: deque[_Flying] = deque()
        for block in batches:
            flying.append(self._started(block))
            if len(flying) > (1 if self._pinned else 0):
                yield flying.popleft().landed()
        while flying:
            yield flying.popleft().landed()

    def _started(self, block: PixelBlock) -> _Flying:
        low = self._settings.precision == "bf16"
        autocast = torch.autocast(self._device.type, torch.bfloat16) if low else nullcontext()
        with torch.no_grad(), autocast:
            mean, std = self._encode(self._on_device(block.pixels))
        both = torch.cat([mean, std], dim=1).to(torch.float16).contiguous()
        if not self._pinned:
            return _Flying(block, both, None)
        host = torch.empty(both.shape, dtype=both.dtype, pin_memory=True)
        host.copy_(both, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        return _Flying(block, host, done)

    def _on_device(self, pixels_BHWC: npt.NDArray[np.uint8]) -> Tensor:
        """Pixels uint8 NHWC -> uint8 BCHW on the device, ``batch`` rows, channels last."""
        shape = (self._settings.batch, *pixels_BHWC.shape[1:])
        full = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pinned)
        rows = full.numpy()
        rows[: len(pixels_BHWC)] = pixels_BHWC
        rows[len(pixels_BHWC) :] = 0
        return full.to(self._device, non_blocking=True).permute(0, 3, 1, 2)


def _compiled(encode: Encode, device: torch.device) -> Encode:
    """The same function through TorchInductor; weights and their digest stay as they are."""
    if device.type == "cpu" and shutil.which("g++") is None:
        raise ConfigError("compiled=true: needs g++ on every node; install it, or set it to false")
    compiled: Encode = torch.compile(encode, dynamic=False)
    return compiled


def batches_of(blocks: Iterable[PixelBlock], batch: int) -> Iterator[PixelBlock]:
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


def _joined(blocks: list[PixelBlock]) -> PixelBlock:
    if len(blocks) == 1:
        return blocks[0]
    return PixelBlock(
        np.concatenate([block.positions for block in blocks]),
        np.concatenate([block.pixels for block in blocks]),
        {position: reason for block in blocks for position, reason in block.failures.items()},
    )


def _rows(block: PixelBlock, rows: slice) -> PixelBlock:
    positions = block.positions[rows]
    kept = set(positions.tolist()) if block.failures else set()
    failures = {place: reason for place, reason in block.failures.items() if place in kept}
    return PixelBlock(positions, block.pixels[rows], failures)


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Torch's threads for the time of the block; sums on the CPU depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
