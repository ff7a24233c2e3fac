"""Workers with the faults that pools must survive; they remember in files what has happened."""

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from histodiff.errors import ConfigError, TransientError
from histodiff.runtime import PixelBlock


def attempt(folder: Path, name: object) -> int:
    """Counts the calls for ``name``, across processes; 1 at the first."""
    number = 1
    while (folder / f"{name}.{number}").exists():
        number += 1
    (folder / f"{name}.{number}").touch()
    return number


class SquaringWorker:
    """Squares a number; dies or fails as its faults say, for so many attempts."""

    def __init__(self, folder: Path, *, deaths: dict[int, int], failures: dict[int, int]) -> None:
        self._folder, self._deaths, self._failures = folder, deaths, failures

    def run(self, unit: int) -> int:
        tried = attempt(self._folder, unit)
        if tried <= self._deaths.get(unit, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if tried <= self._failures.get(unit, 0):
            raise TransientError(f"unit {unit}: throttled")
        if unit < 0:
            raise ConfigError(f"unit {unit}: must not be negative")
        return unit * unit


class CountedUnits(Sequence[int]):
    """Numbers that are counted as they are asked for."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.asked = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> int:
        return range(self._count)[number]

    def __iter__(self) -> Iterator[int]:
        for number in range(self._count):
            self.asked += 1
            yield number


def refuse_to_start() -> SquaringWorker:
    raise ConfigError("worker: cannot be made")


class CountingReader:
    """Blocks whose pixels are the part's number; its process dies at one part, once."""

    def __init__(self, folder: Path, *, deadly: int | None) -> None:
        self._folder, self._deadly = folder, deadly

    def read(self, part: int) -> PixelBlock:
        if part == self._deadly and attempt(self._folder, f"read-{part}") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        pixels = np.full((1, 2, 2, 3), part, np.uint8)
        return PixelBlock(np.array([part]), pixels, {})


class ListingEncoder:
    """The numbers of the blocks that it was given, in order."""

    def run(self, unit: int, blocks: object) -> list[int]:
        return [int(block.pixels[0, 0, 0, 0]) for block in blocks]


def ten_parts(unit: int) -> list[int]:
    return list(range(10 * unit, 10 * unit + 10))
