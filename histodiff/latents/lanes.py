"""The order in which rows are drawn, by arithmetic: no state, so any step can be asked for.

An *epoch* of a store draws each row of the split once. Slabs (runs of rows that are read
together) are permuted per epoch and their rows laid end to end; each lane gets one contiguous
piece. Pieces differ by at most one row, and the odd rows rotate over the lanes, so that no lane
runs ahead.
Inside a lane, rows are permuted within windows of a few slabs: the shuffle buffer.

Which store of a mixture a draw comes from is a permuted cycle of ``CYCLE`` draws with quotas.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from histodiff.errors import ConfigError
from histodiff.runtime import generator_for

CYCLE = 1024
_KEPT = 2

Int64s = npt.NDArray[np.int64]


@dataclass
class LaneOrder:
    """Order of the rows of one store over lanes.

    Args:
        rows: Numbers of the rows that are drawn, ascending.
        slab_rows: Rows of the store that are read together.
        num_lanes: Lanes.
        window_rows: Rows that are shuffled among each other within a lane.
        seed: Seed, different for every store of a mixture.
    """

    rows: Int64s
    slab_rows: int
    num_lanes: int
    window_rows: int
    seed: int
    _starts: Int64s = field(init=False, repr=False)
    _epochs: dict[int, tuple[Int64s, Int64s]] = field(default_factory=dict, init=False, repr=False)
    _windows: dict[tuple[int, int, int], Int64s] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        _, first = np.unique(self.rows // self.slab_rows, return_index=True)
        self._starts = np.append(first, len(self.rows)).astype(np.int64)

    def rows_at(self, lane: int, draws: Int64s) -> Int64s:
        """Row numbers of draws number ``draws`` (ascending) of a lane."""
        result = np.empty(len(draws), np.int64)
        done = 0
        while done < len(draws):
            epoch, position = self.place(lane, int(draws[done]))
            window, offset = divmod(position, self.window_rows)
            rows = self._window(epoch, lane, window)
            inside = draws[done:] - draws[done] + offset
            count = int(np.searchsorted(inside, len(rows)))
            result[done : done + count] = rows[inside[:count]]
            done += count
        return result

    def place(self, lane: int, draw: int) -> tuple[int, int]:
        """Epoch of a draw, and its position in the lane's piece of that epoch."""
        epoch = draw * self.num_lanes // len(self.rows)
        while self._drawn(lane, epoch) > draw:
            epoch -= 1
        while self._drawn(lane, epoch + 1) <= draw:
            epoch += 1
        return epoch, draw - self._drawn(lane, epoch)

    def _drawn(self, lane: int, epochs: int) -> int:
        """Rows that a lane draws in the first ``epochs`` epochs; odd rows are dealt round robin."""
        whole, odd = divmod(len(self.rows), self.num_lanes)
        return epochs * whole + max(0, -(-(epochs * odd - lane) // self.num_lanes))

    def _window(self, epoch: int, lane: int, window: int) -> Int64s:
        key = (epoch, lane, window)
        if key not in self._windows:
            start = sum(self._length(other, epoch) for other in range(lane))
            stop = start + self._length(lane, epoch)
            start += window * self.window_rows
            positions = np.arange(start, min(start + self.window_rows, stop))
            order = generator_for(self.seed, "window", *key).permutation(len(positions))
            while len(self._windows) >= _KEPT * self.num_lanes:
                self._windows.pop(next(iter(self._windows)))
            self._windows[key] = self._sequence(epoch, positions)[order]
        return self._windows[key]

    def _length(self, lane: int, epoch: int) -> int:
        return self._drawn(lane, epoch + 1) - self._drawn(lane, epoch)

    def _sequence(self, epoch: int, positions: Int64s) -> Int64s:
        """Rows at positions of the line of permuted slabs of an epoch."""
        if epoch not in self._epochs:
            slabs = generator_for(self.seed, "slabs", epoch).permutation(len(self._starts) - 1)
            ends = np.cumsum(np.diff(self._starts)[slabs])
            while len(self._epochs) >= _KEPT:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = (slabs.astype(np.int64), ends)
        slabs, ends = self._epochs[epoch]
        place = np.searchsorted(ends, positions, side="right")
        begins = ends - np.diff(self._starts)[slabs]
        chosen: Int64s = self.rows[self._starts[slabs[place]] + positions - begins[place]]
        return chosen


@dataclass
class StoreCycle:
    """Which store every draw of a lane comes from."""

    quotas: tuple[int, ...]
    """Draws of each store in a cycle."""
    seed: int
    _cycles: dict[tuple[int, int], Int64s] = field(default_factory=dict, init=False, repr=False)

    def draws(self, lane: int, start: int, stop: int) -> tuple[Int64s, Int64s]:
        """Of draws ``start`` to ``stop``: the store, and the number of the draw in that store."""
        stores, numbers = [], []
        for cycle in range(start // CYCLE, -(-stop // CYCLE)):
            chosen = self._cycle(lane, cycle)
            counts = np.cumsum(chosen[:, None] == np.arange(len(self.quotas)), axis=0) - 1
            first, last = max(start - cycle * CYCLE, 0), min(stop - cycle * CYCLE, CYCLE)
            part = chosen[first:last]
            before = cycle * np.asarray(self.quotas, np.int64)
            stores.append(part)
            numbers.append(before[part] + counts[first:last][np.arange(len(part)), part])
        return np.concatenate(stores), np.concatenate(numbers)

    def _cycle(self, lane: int, cycle: int) -> Int64s:
        key = (lane, cycle)
        if key not in self._cycles:
            line = np.repeat(np.arange(len(self.quotas)), self.quotas)
            while len(self._cycles) >= CYCLE:
                self._cycles.pop(next(iter(self._cycles)))
            self._cycles[key] = generator_for(self.seed, "stores", lane, cycle).permutation(line)
        return self._cycles[key]


def cycle_quotas(weights: Sequence[float]) -> tuple[int, ...]:
    """Draws of each store in a cycle of ``CYCLE``: the weights, rounded by largest remainder.

    Raises:
        ConfigError: A weight is not positive, or too small to be drawn at all.
    """
    if not weights or min(weights) <= 0:
        raise ConfigError(f"weights {list(weights)}: every weight must be positive")
    exact = np.asarray(weights, np.float64) / sum(weights) * CYCLE
    quotas = np.floor(exact).astype(int)
    rest = CYCLE - int(quotas.sum())
    quotas[np.argsort(quotas - exact, kind="stable")[:rest]] += 1
    if not quotas.all():
        raise ConfigError(
            f"weights {list(weights)}: the smallest is below 1/{CYCLE} of the sum and would never"
            " be drawn; raise it, or leave that store out"
        )
    return tuple(int(quota) for quota in quotas)
