"""Trainings of ``bench train`` that take turns, block by block."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch

from histodiff.workflows.bench.train.limits import synchronize, with_peak_bytes
from histodiff.workflows.bench.train.loops import Loop

WARM_UP = 2

Block = Callable[[int], float]
"""Does so many steps of a training; how many seconds they took."""

Seconds = Mapping[str, Sequence[float]]
"""Of every block, by the name of the training; round by round."""


class Entrant:
    """A training of this process, with its losses and its memory.

    Args:
        start: Makes it; its first steps are not timed.
        device: Where it runs.
    """

    def __init__(self, start: Callable[[], Loop], *, device: str) -> None:
        self._device = device
        self.losses: list[torch.Tensor] = []
        self.loop, self.peak_bytes = with_peak_bytes(lambda: self._started(start), device=device)

    def block(self, steps: int) -> float:
        """Does so many steps; how many seconds they took."""
        synchronize(self._device)
        started = time.perf_counter()
        losses = [self.loop.step() for _ in range(steps)]
        synchronize(self._device)
        seconds = time.perf_counter() - started
        self.losses += losses
        return seconds

    def _started(self, start: Callable[[], Loop]) -> Loop:
        loop = start()
        self.losses += [loop.step() for _ in range(WARM_UP)]
        return loop


def take_turns(
    ways: Mapping[str, Block], *, rounds: int, steps: int, between: Callable[[], None]
) -> Seconds:
    """Blocks of all, where every round begins with another one; ``between`` follows a round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(ways[name](steps))
        between()
    return seconds


def speed_ratio(seconds: Seconds, name: str, other: str) -> float | None:
    """How many times as fast a training is as another; None where one did not run."""
    if name not in seconds or other not in seconds:
        return None
    return median(theirs / mine for mine, theirs in zip(seconds[name], seconds[other], strict=True))


def largest_difference(losses: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    """Largest relative difference of the losses of the same steps."""
    mine, theirs = (torch.stack(list(values)).double().cpu() for values in (losses, others))
    return float(((mine - theirs).abs() / theirs.abs()).max())
