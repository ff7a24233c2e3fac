"""The seams between work and the machinery that runs it.

A worker is a plain class with ``run(unit) -> record``. Encoding is cut in two: a ``Reader`` turns a
part of a unit into pixels, an ``Encoder`` turns blocks of pixels into one committed unit.
``cluster.pool`` runs them as Ray actors; ``run_in_process`` runs them here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from histodiff.runtime.prefetching import Prefetched

_PARTS_AHEAD = 2

UnitT = TypeVar("UnitT")
UnitT_contra = TypeVar("UnitT_contra", contravariant=True)
PartT_contra = TypeVar("PartT_contra", contravariant=True)
RecordT = TypeVar("RecordT")
RecordT_co = TypeVar("RecordT_co", covariant=True)
PartT = TypeVar("PartT")


class Worker(Protocol[UnitT_contra, RecordT_co]):
    """Does one unit of work; built once, used for many units."""

    def run(self, unit: UnitT_contra) -> RecordT_co:
        """Does the unit, idempotently, and returns its record."""


@dataclass(frozen=True)
class ReadBytes:
    """What reading some patches took, in bytes."""

    decoded: int = 0
    """Pixels that were decoded."""
    shown: int = 0
    """Pixels that the patches show, as they lie in the slide, before they are shrunk."""
    fetched: int = 0
    """Compressed bytes that came over a network."""

    def __add__(self, other: "ReadBytes") -> "ReadBytes":
        return ReadBytes(
            self.decoded + other.decoded, self.shown + other.shown, self.fetched + other.fetched
        )

    def __sub__(self, other: "ReadBytes") -> "ReadBytes":
        return ReadBytes(
            self.decoded - other.decoded, self.shown - other.shown, self.fetched - other.fetched
        )

    @property
    def amplification(self) -> float:
        """Bytes decoded per byte shown; 0 where nothing was read."""
        return self.decoded / self.shown if self.shown else 0.0


@dataclass(frozen=True)
class PixelBlock:
    """Pixels of some rows of a unit.

    ``pixels`` is uint8 ``(n, H, W, 3)``; ``positions`` are the rows' places in the unit;
    ``failures`` maps the position of a row that could not be read to its reason (its pixels are
    zeros); ``read`` is what reading took, where it was counted.
    """

    positions: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]
    failures: dict[int, str]
    read: ReadBytes = ReadBytes()


class Reader(Protocol[PartT_contra]):
    """Reads pixels."""

    def read(self, part: PartT_contra) -> PixelBlock:
        """The pixels of a part; a row that cannot be read is a failure in the block."""


class Encoder(Protocol[UnitT_contra, RecordT_co]):
    """Encodes and commits one unit."""

    def run(self, unit: UnitT_contra, blocks: Iterable[PixelBlock]) -> RecordT_co:
        """Encodes the blocks, commits the unit once, and returns its record."""


@dataclass(frozen=True)
class Finished(Generic[UnitT, RecordT]):
    """A unit with its record."""

    unit: UnitT
    record: RecordT


def run_in_process(
    make_worker: Callable[[], Worker[UnitT, RecordT]], units: Sequence[UnitT]
) -> Iterator[Finished[UnitT, RecordT]]:
    """Runs every unit with one worker in this process, in order."""
    worker = make_worker()
    for unit in units:
        yield Finished(unit, worker.run(unit))


def encode_in_process(
    make_reader: Callable[[], Reader[PartT]],
    make_encoder: Callable[[], Encoder[UnitT, RecordT]],
    units: Sequence[UnitT],
    *,
    parts_of: Callable[[UnitT], Sequence[PartT]],
) -> Iterator[Finished[UnitT, RecordT]]:
    """Encodes every unit in this process, in order; a thread reads ahead of the encoder.

    Args:
        make_reader: Makes the reader.
        make_encoder: Makes the encoder.
        units: The work; each is asked for when it is its turn.
        parts_of: The parts of a unit, in the order in which the encoder gets their blocks.
    """
    if not units:
        return
    reader, encoder = make_reader(), make_encoder()
    for unit in units:
        blocks = (reader.read(part) for part in parts_of(unit))
        with Prefetched(blocks, ahead=_PARTS_AHEAD) as read:
            record = encoder.run(unit, read)
        yield Finished(unit, record)
