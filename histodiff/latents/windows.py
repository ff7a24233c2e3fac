"""Windows of the training order in memory: the one that a lane draws from, and its next one.

Every piece of a window is a task of its own for a small pool of threads, which fill one buffer; a
buffer is used again when its lane moves on. While a lane draws from one window, the next is read.
"""

from collections.abc import Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from histodiff.latents.fetch import RowFetcher
from histodiff.latents.lanes import LaneOrder, Window, WindowKey

WINDOWS_PER_LANE = 2

Moments = npt.NDArray[np.float16]


@dataclass(frozen=True)
class LoadedWindow:
    """A window that is being read, or has been."""

    window: Window
    first_draw: int
    """Number of its first draw among those of the lane."""
    buffer: Moments
    parts: "Sequence[Future[None]]"

    def moments(self) -> Moments:
        """Rows of the pieces, end to end; waits for them, and raises what reading them raised."""
        for part in self.parts:
            part.result()
        return self.buffer


@dataclass
class LaneWindows:
    """Windows of one store; not safe for several threads at once."""

    order: LaneOrder
    fetcher: RowFetcher
    threads: Executor
    _loaded: dict[int, dict[WindowKey, LoadedWindow]] = field(default_factory=dict, init=False)
    _free: list[Moments] = field(default_factory=list, init=False)

    @property
    def buffer_rows(self) -> int:
        """Rows of the buffer of a window."""
        return min(self.order.window_slabs * self.order.grid.slab_rows, self.order.grid.num_rows)

    def at(self, lane: int, draw: int) -> tuple[LoadedWindow, int]:
        """The window of a draw, and the draw's number in it; the window after it is being read."""
        loaded = self._loaded.setdefault(lane, {})
        current = next(iter(loaded.values()), None)
        if current is None or not 0 <= draw - current.first_draw < len(current.window.rows_D):
            current = self._moved(loaded, lane, draw)
        return current, draw - current.first_draw

    def _moved(self, loaded: dict[WindowKey, LoadedWindow], lane: int, draw: int) -> LoadedWindow:
        """Goes to the window of a draw, and begins the one after it."""
        key, offset = self.order.window_of(lane, draw)
        for other in [other for other in loaded if other != key]:
            self._drop(loaded.pop(other))
        if key not in loaded:
            loaded[key] = self._begun(key, draw - offset)
        end = draw - offset + len(loaded[key].window.rows_D)
        following, _ = self.order.window_of(lane, end)
        loaded[following] = self._begun(following, end)
        return loaded[key]

    def forget(self, lane: int) -> None:
        """Drops the windows of a lane, so that they are read again when they are asked for."""
        for window in self._loaded.pop(lane, {}).values():
            self._drop(window)

    def _begun(self, key: WindowKey, first_draw: int) -> LoadedWindow:
        window = self.order.window(key)
        if not self._free:
            shape = self.fetcher.layout.moment_shape
            self._free.append(np.empty((self.buffer_rows, *shape), np.float16))
        buffer, parts, start = self._free.pop(), [], 0
        for piece in window.pieces:
            into = buffer[start : start + len(piece)]
            parts.append(self.threads.submit(self.fetcher.read_into, piece, into))
            start += len(piece)
        return LoadedWindow(window, first_draw, buffer, parts)

    def _drop(self, loaded: LoadedWindow) -> None:
        for part in loaded.parts:
            part.cancel()
        wait(loaded.parts)
        self._free.append(loaded.buffer)
