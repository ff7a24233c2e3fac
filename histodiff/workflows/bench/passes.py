"""Ways of a bench that take turns: one pass of each per round, and medians over rounds."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from histodiff.telemetry import progress


@dataclass(frozen=True)
class Pass:
    """One pass over the rows."""

    seconds: float
    rows: int
    first_seconds: float
    """From the start to the first batch; part of ``seconds``."""

    @property
    def rate(self) -> float:
        """Rows per second."""
        return self.rows / self.seconds


Way = Callable[[], Pass]
Passes = Mapping[str, Sequence[Pass]]


def timed(lengths: Iterable[int]) -> Pass:
    """A pass that takes every batch; ``lengths`` gives their numbers of rows."""
    rows, first = 0, 0.0
    started = time.perf_counter()
    for length in lengths:
        first = first or time.perf_counter() - started
        rows += length
    return Pass(time.perf_counter() - started, rows, first)


def interleaved(ways: Mapping[str, Way], *, rounds: int, title: str) -> Passes:
    """Passes of every way, which take turns."""
    passes: dict[str, list[Pass]] = {name: [] for name in ways}
    with progress(title, total=rounds * len(ways), unit="passes") as bar:
        for _ in range(rounds):
            for name, way in ways.items():
                passes[name].append(way())
                bar.advance()
    return passes


def median_rate(passes: Passes, name: str) -> float | None:
    """Rows per second of a way; None where it did not run."""
    return median(one.rate for one in passes[name]) if name in passes else None


def ratio(passes: Passes, name: str, other: str) -> float | None:
    """Throughput of a way over another's; None where one did not run."""
    mine, theirs = median_rate(passes, name), median_rate(passes, other)
    return None if mine is None or theirs is None else mine / theirs
