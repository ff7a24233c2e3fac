"""Asynchronous successive halving: which trials go on, by what they and their rivals reached.

ASHA (Li et al. 2020, arXiv 1810.05934): at each rung a trial goes on if its value is among the best
``1 / reduction`` of those that reached the rung so far; nobody waits for the others. Ray's own
scheduler has the same rule, but one population, and its state is lost with the driver. Here rivals
are named (only settings of one arm, at one budget and seed, compete), and every value is told to
whoever keeps it, so that a sweep that was killed goes on with the same rungs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Reached = Mapping[float, float]
"""Value at each rung that a trial reached."""


@dataclass(frozen=True)
class Standing:
    """How far a trial came: its values by rung, and the rung at which it was stopped."""

    values: Reached = field(default_factory=dict)
    stopped: float | None = None


def rungs_of(grace: float, reduction: int) -> tuple[float, ...]:
    """Shares of the training at which trials are compared: ``grace``, times ``reduction``, ..."""
    found = [grace]
    while found[-1] * reduction < 1:
        found.append(found[-1] * reduction)
    return tuple(found)


class Halving:
    """The rungs of all groups of rivals.

    Args:
        rivals: Group of each trial that may be stopped, by key; others run to their end.
        rungs: Ascending shares of the training.
        reduction: One of so many goes on.
        standings: What is known from before.
        keep: Called with every trial's new standing, before anything is done about it.
    """

    def __init__(
        self,
        rivals: Mapping[str, str],
        *,
        rungs: Sequence[float],
        reduction: int,
        standings: Mapping[str, Standing],
        keep: Callable[[str, Standing], None],
    ) -> None:
        self._rivals, self._rungs, self._reduction = rivals, tuple(rungs), reduction
        self._standings, self._keep = dict(standings), keep

    def rungs_left(self, key: str) -> tuple[float, ...]:
        """Rungs at which a trial has yet to be judged; none of one that runs to its end."""
        if key not in self._rivals:
            return ()
        known = self.standing(key).values
        return tuple(rung for rung in self._rungs if rung not in known)

    def standing(self, key: str) -> Standing:
        """How far a trial came."""
        return self._standings.get(key, Standing())

    def goes_on(self, key: str, rung: float, value: float) -> bool:
        """Whether a trial goes on after a rung; more is better."""
        group = self._rivals[key]
        others = [
            standing.values[rung]
            for other, standing in self._standings.items()
            if other != key and self._rivals.get(other) == group and rung in standing.values
        ]
        good = not others or value >= np.percentile([*others, value], 100 * self._worse)
        values = {**self.standing(key).values, rung: value}
        self._standings[key] = Standing(values, None if good else rung)
        self._keep(key, self._standings[key])
        return bool(good)

    @property
    def _worse(self) -> float:
        return 1 - 1 / self._reduction
