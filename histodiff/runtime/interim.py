"""Interim results: what a training says of itself midway, and how it is told to stop.

Whoever runs a training may listen (a sweep does); whoever trains offers a measure at every step,
which is taken only when the listener wants it. Without a listener an offer costs nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

Measure = Callable[[], Mapping[str, float]]
"""Takes the metrics now, by name."""


class Listener(Protocol):
    """Who wants to know how a training is doing."""

    def offer(self, share: float, measure: Measure) -> None:
        """Called before every step, with the share of the training that is done.

        Raises:
            StoppedEarly: The training shall end here, and leave no result.
        """


class StoppedEarly(Exception):
    """A training was stopped before its end by whoever listens."""


_listener: ContextVar[Listener | None] = ContextVar("interim_listener", default=None)


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Offers of this block, in this thread, go to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def offer_interim(share: float, measure: Measure) -> None:
    """Offers interim metrics to whoever listens."""
    listener = _listener.get()
    if listener is not None:
        listener.offer(share, measure)
