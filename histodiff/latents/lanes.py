"""The order in which rows are drawn, by arithmetic: no state, so any step can be asked for.

An *epoch* of a store draws each row of the split once. Slabs (runs of rows that are read
together) are permuted per epoch and their rows laid end to end; each lane gets one contiguous
piece. Pieces differ by at most one row, and the odd rows rotate over the lanes, so that no lane
runs ahead. A slab at the border of two lanes is cut at a row: each reads its part of the bytes.
Inside a lane, rows are permuted within windows of a few slabs: the shuffle buffer.

Which store of a mixture a draw comes from is a permuted cycle of ``CYCLE`` draws with quotas.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from histodiff.errors import ConfigError
from histodiff.latents.slabs import Int64s, SlabGrid
from histodiff.runtime import generator_for

CYCLE = 1024
_KEPT = 2
BYTES_PER_SLAB = 8 + 4 + _KEPT * (8 + 8)
"""Of an order: number and rows of every slab, and the permuted line of two epochs."""


class WindowKey(NamedTuple):
    """Which window of the order."""

    epoch: int
    lane: int
    number: int
    """Of the windows of the lane in the epoch."""


@dataclass(frozen=True)
class Window:
    """Rows that a lane shuffles among each other."""

    pieces: tuple[range, ...]
    """Rows that are read, each range within one slab; all of them, drawn from or not."""
    rows_D: Int64s
    """Rows that are drawn, in the order of the draws."""
    places_D: Int64s
    """Where those rows lie when the pieces are laid end to end."""


@dataclass
class LaneOrder:
    """Order of the rows of one store over lanes.

    Memory is one number per slab and epoch; the rows of a window are looked up in ``flags``.

    Args:
        flags: One number per row of the store.
        code: Rows of this number are drawn.
        grid: Slabs of the store.
        num_lanes: Lanes.
        window_slabs: Slabs whose rows are shuffled among each other within a lane.
        seed: Seed, different for every store of a mixture.
    """

    flags: npt.NDArray[np.uint8]
    code: int
    grid: SlabGrid
    num_lanes: int
    window_slabs: int
    seed: int
    num_rows: int = field(init=False)
    """Rows that are drawn."""
    _slabs: Int64s = field(init=False, repr=False)
    _counts: npt.NDArray[np.int32] = field(init=False, repr=False)
    _lines: dict[int, "_Line"] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        counts = self.grid.counts(self.flags, self.code)
        self._slabs = np.flatnonzero(counts)
        self._counts = counts[self._slabs]
        self.num_rows = int(counts.sum(dtype=np.int64))

    def rows_at(self, lane: int, draws: Int64s) -> Int64s:
        """Row numbers of consecutive draws of a lane."""
        result = np.empty(len(draws), np.int64)
        done = 0
        while done < len(draws):
            key, offset = self.window_of(lane, int(draws[done]))
            rows = self.window(key).rows_D[offset : offset + len(draws) - done]
            result[done : done + len(rows)] = rows
            done += len(rows)
        return result

    def place(self, lane: int, draw: int) -> tuple[int, int]:
        """Epoch of a draw, and its position in the lane's piece of that epoch."""
        epoch = draw * self.num_lanes // self.num_rows
        while self._drawn(lane, epoch) > draw:
            epoch -= 1
        while self._drawn(lane, epoch + 1) <= draw:
            epoch += 1
        return epoch, draw - self._drawn(lane, epoch)

    def window_of(self, lane: int, draw: int) -> tuple[WindowKey, int]:
        """The window of a draw, and the number of the draw in it."""
        epoch, position = self.place(lane, draw)
        line, start = self._line(epoch), self._start(lane, epoch)
        first = line.slab_at(start)
        number = (line.slab_at(start + position) - first) // self.window_slabs
        begin = max(start, line.begin(first + number * self.window_slabs))
        return WindowKey(epoch, lane, number), start + position - begin

    def window(self, key: WindowKey) -> Window:
        """The window: what is read for it, and the order of its draws."""
        line = self._line(key.epoch)
        start = self._start(key.lane, key.epoch)
        stop = start + self._length(key.lane, key.epoch)
        first = line.slab_at(start) + key.number * self.window_slabs
        last = min(first + self.window_slabs, line.slab_at(stop - 1) + 1)
        pieces, rows, places, before = [], [], [], 0
        for place in range(first, last):
            begin = line.begin(place)
            piece, drawn = self._piece(int(line.slabs[place]), start - begin, stop - begin)
            pieces.append(piece)
            rows.append(drawn)
            places.append(drawn - piece.start + before)
            before += len(piece)
        order = generator_for(self.seed, "window", *key).permutation(sum(map(len, rows)))
        return Window(tuple(pieces), np.concatenate(rows)[order], np.concatenate(places)[order])

    def _piece(self, slab: int, start: int, stop: int) -> tuple[range, Int64s]:
        """Of a slab's drawn rows, those from number ``start`` to ``stop``: what is read, and they.

        Bytes up to the first row of the next lane belong to the lane before.
        """
        rows = self.grid.rows(slab)
        drawn = rows.start + np.flatnonzero(self.flags[rows.start : rows.stop] == self.code)
        first = int(drawn[start]) if start > 0 else rows.start
        end = int(drawn[stop]) if stop < len(drawn) else rows.stop
        return range(first, end), drawn[max(start, 0) : stop]

    def _drawn(self, lane: int, epochs: int) -> int:
        """Rows that a lane draws in the first ``epochs`` epochs; odd rows are dealt round robin."""
        whole, odd = divmod(self.num_rows, self.num_lanes)
        return epochs * whole + max(0, -(-(epochs * odd - lane) // self.num_lanes))

    def _length(self, lane: int, epoch: int) -> int:
        return self._drawn(lane, epoch + 1) - self._drawn(lane, epoch)

    def _start(self, lane: int, epoch: int) -> int:
        """Where a lane's piece begins: after the rows of the lanes before it."""
        whole, odd = divmod(self.num_rows, self.num_lanes)

        def odd_before(number: int) -> int:  # odd rows up to this one, dealt to lanes before
            rounds, rest = divmod(number, self.num_lanes)
            return rounds * lane + min(rest, lane)

        return lane * whole + odd_before((epoch + 1) * odd) - odd_before(epoch * odd)

    def _line(self, epoch: int) -> "_Line":
        if epoch not in self._lines:
            order = generator_for(self.seed, "slabs", epoch).permutation(len(self._slabs))
            while len(self._lines) >= _KEPT:
                self._lines.pop(next(iter(self._lines)))
            self._lines[epoch] = _Line(
                self._slabs[order], np.cumsum(self._counts[order], dtype=np.int64)
            )
        return self._lines[epoch]


@dataclass(frozen=True)
class _Line:
    """The permuted slabs of an epoch, their drawn rows laid end to end."""

    slabs: Int64s
    ends: Int64s

    def slab_at(self, position: int) -> int:
        """Place in the line of the slab that a position lies in."""
        return int(np.searchsorted(self.ends, position, side="right"))

    def begin(self, place: int) -> int:
        """First position of the slab at a place."""
        return int(self.ends[place - 1]) if place else 0


@dataclass
class StoreCycle:
    """Which store every draw of a lane comes from."""

    quotas: tuple[int, ...]
    """Draws of each store in a cycle."""
    seed: int
    _cycles: dict[tuple[int, int], Int64s] = field(default_factory=dict, init=False, repr=False)

    def draws(self, lane: int, start: int, stop: int) -> tuple[Int64s, Int64s]:
        """Of draws ``start`` to ``stop``: the store, and the number of the draw in that store."""
        if len(self.quotas) == 1:
            return np.zeros(stop - start, np.int64), np.arange(start, stop)
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
