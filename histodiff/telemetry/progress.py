"""Progress with rate and ETA: a bar on a terminal, plain lines elsewhere. Always on stderr."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

PLAIN_INTERVAL_SECONDS = 10.0
REFRESHES_PER_SECOND = 2.0
"""Drawing a bar takes about a millisecond from a loop in the same process."""


class Progress(Protocol):
    """What a loop reports to."""

    def advance(self, count: float = 1, **shown: object) -> None:
        """Adds ``count`` finished units; ``shown`` are values printed behind the rate."""


@dataclass
class _BarProgress:
    bar: Bar
    task: TaskID
    unit: str
    started: float = field(default_factory=time.monotonic)
    done: float = 0.0

    def advance(self, count: float = 1, **shown: object) -> None:
        self.done += count
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        self.bar.update(
            self.task, advance=count, extra=f"{_compact(rate)} {self.unit}/s {_values(shown)}"
        )


@dataclass
class _PlainProgress:
    description: str
    total: float
    already: float
    unit: str
    started: float = field(default_factory=time.monotonic)
    printed: float = field(default_factory=time.monotonic)
    done: float = 0.0
    shown_at: float = -1.0
    last: str = ""

    def advance(self, count: float = 1, **shown: object) -> None:
        self.done += count
        self.last = _values(shown)
        self.print_when_due()

    def print_when_due(self) -> None:
        if time.monotonic() - self.printed >= PLAIN_INTERVAL_SECONDS:
            self.print_line()

    def print_line(self) -> None:
        self.printed, self.shown_at = time.monotonic(), self.done
        elapsed = self.printed - self.started
        rate = self.done / max(elapsed, 1e-9)
        position = self.already + self.done
        left = (self.total - position) / rate if rate > 0 else float("inf")
        eta = "done" if left <= 0 else f"ETA {_clock(left)}"
        print(
            f"{self.description}: {_compact(position)}/{_compact(self.total)} {self.unit},"
            f" {_compact(rate)} {self.unit}/s, {_clock(elapsed)} elapsed, {eta}"
            f" {self.last}".rstrip(),
            file=sys.stderr, flush=True,
        )  # fmt: skip


@contextmanager
def progress(
    description: str, *, total: float, unit: str, already: float = 0
) -> Iterator[Progress]:
    """A progress display for one loop.

    Args:
        description: What is going on, such as ``encode``.
        total: Units in all.
        unit: Name of a unit in the plural: ``patches``, ``images``.
        already: Units that an earlier run finished; not part of the rate.
    """
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"), BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[extra]}"), TimeRemainingColumn(),
        )  # fmt: skip
        console = Console(stderr=True)
        with Bar(*columns, console=console, refresh_per_second=REFRESHES_PER_SECOND) as bar:
            task = bar.add_task(description, total=total, completed=int(already), extra="")
            yield _BarProgress(bar, task, unit)
        return
    plain = _PlainProgress(description, total, already, unit)
    with _heartbeat(plain):
        yield plain
    if plain.shown_at != plain.done:
        plain.print_line()


@contextmanager
def _heartbeat(plain: _PlainProgress) -> Iterator[None]:
    """Prints lines in time also while no unit ends: a first trial may take minutes."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(PLAIN_INTERVAL_SECONDS / 2):
            plain.print_when_due()

    thread = threading.Thread(target=beat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _values(shown: dict[str, object]) -> str:
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in shown.items()
    )


def _compact(number: float) -> str:
    return f"{number:.0f}" if number >= 100 or number == int(number) else f"{number:.2g}"


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
