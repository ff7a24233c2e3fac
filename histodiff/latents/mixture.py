"""A weighted mixture of stores as training reads it: a batch is a pure function of its step.

A global batch of B rows takes B / num_lanes rows of every lane, in lane order. Rank r of W works
on lanes ``r * num_lanes / W`` to ``(r + 1) * num_lanes / W``: the same global batch, cut in W
pieces, for every W that divides the lanes; slabs are not read by two ranks (but where a lane's
piece is cut).
Threads, never forked workers: storage clients do not survive a fork.
"""

import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.errors import ArtifactError, ConfigError
from histodiff.latents.cache import SlabCache
from histodiff.latents.lanes import BYTES_PER_SLAB, LaneOrder, StoreCycle, cycle_quotas
from histodiff.latents.slabs import SlabGrid
from histodiff.latents.store import LatentStore
from histodiff.latents.windows import WINDOWS_PER_LANE, LaneWindows
from histodiff.runtime import derived_seed
from histodiff.telemetry import metrics

_log = logging.getLogger(__name__)

PREFETCHED_BATCHES = 2

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReaderSettings:
    """How a mixture is read. What changes slabs or windows changes the order."""

    slab_bytes: int = 4 * 2**20
    """Bytes that are read as one range; at least an inner chunk."""
    window_slabs: int = 4
    """Slabs of a lane whose rows are shuffled among each other."""
    fetch_threads: int = 8
    """Slabs that are read at the same time, over all lanes of the rank."""


DEFAULT_SETTINGS = ReaderSettings()


@dataclass(frozen=True)
class LatentBatch:
    """Rows of a global batch that belong to one rank."""

    moments_BMHW: npt.NDArray[np.float16]
    """Posterior mean, then standard deviation, raw: ``(b, 2C, h, w)``."""
    sample_index_B: Int64s
    """Global sample index: the order in which images are seen."""
    store_B: Int64s
    """Number of the store in the mixture."""
    row_B: Int64s
    """Row number in the store."""

    def rows(self, start: int, stop: int) -> "LatentBatch":
        """A part of the batch, in the same memory."""
        return LatentBatch(
            self.moments_BMHW[start:stop], self.sample_index_B[start:stop],
            self.store_B[start:stop], self.row_B[start:stop],
        )  # fmt: skip


class LatentMixture:
    """Stores, drawn from by weight.

    Args:
        stores: Stores of one encoder, one patch size and one scale.
        weights: Share of the draws of each store, relative.
        split: Only rows of this split are drawn.
        seed: Seed of the order.
        batch: Rows of a global batch.
        num_lanes: Lanes; divides the batch. Part of the order.
        settings: Slabs, windows and threads; slabs and windows are part of the order.
        cache: Where slabs of remote stores are kept on local disk.

    Raises:
        ConfigError: The lanes do not divide the batch, or a weight cannot be used.
        ArtifactError: Stores do not fit each other, or one has no rows in the split.
    """

    def __init__(
        self,
        stores: Sequence[LatentStore],
        *,
        weights: Sequence[float],
        split: str,
        seed: int,
        batch: int,
        num_lanes: int,
        settings: ReaderSettings = DEFAULT_SETTINGS,
        cache: SlabCache | None = None,
    ) -> None:
        if batch % num_lanes:
            raise ConfigError(f"batch={batch} must be a multiple of num_lanes={num_lanes}")
        if len(stores) != len(weights):
            raise ConfigError(f"{len(stores)} stores, but {len(weights)} weights: give one each")
        _require_same_kind(stores)
        self.batch = batch
        self.num_lanes = num_lanes
        self.stores = tuple(stores)
        self._cycle = StoreCycle(cycle_quotas(weights), derived_seed(seed, "mixture"))
        self._threads = ThreadPoolExecutor(settings.fetch_threads, "latent-fetch")
        orders = [
            _order(store, split, num_lanes=num_lanes, settings=settings,
                   seed=derived_seed(seed, "store", number))
            for number, store in enumerate(stores)
        ]  # fmt: skip
        self._windows = tuple(
            LaneWindows(order, store.fetcher(order.grid, cache=cache), self._threads)
            for store, order in zip(stores, orders, strict=True)
        )
        self._lock = threading.Lock()
        self._before = _counted()

    @property
    def num_rows(self) -> int:
        """Rows that are drawn from, over all stores."""
        return sum(windows.order.num_rows for windows in self._windows)

    def batch_at(self, step: int, *, rank: int = 0, world_size: int = 1) -> LatentBatch:
        """The rows of ``rank`` in global batch number ``step``."""
        per_rank = self._lanes_per_rank(world_size)
        per_lane = self.batch // self.num_lanes
        first, count = rank * per_rank, per_rank * per_lane
        batch = LatentBatch(
            moments_BMHW=np.empty((count, *self.stores[0].moment_shape), np.float16),
            sample_index_B=step * self.batch + first * per_lane + np.arange(count),
            store_B=np.empty(count, np.int64),
            row_B=np.empty(count, np.int64),
        )
        with self._lock:
            for lane in range(per_rank):
                part = batch.rows(lane * per_lane, (lane + 1) * per_lane)
                self._copy_rows(first + lane, step * per_lane, part)
        metrics.READER_GIVEN_BYTES.inc(batch.moments_BMHW.nbytes)
        return batch

    def batches(
        self, start_step: int, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[LatentBatch]:
        """Batches from ``start_step`` on, without end, read ahead by a thread."""
        self._lanes_per_rank(world_size)
        ready: queue.Queue[LatentBatch | BaseException] = queue.Queue(PREFETCHED_BATCHES)
        stop = threading.Event()

        def read_ahead() -> None:
            step = start_step
            while not stop.is_set():
                item: LatentBatch | BaseException
                try:
                    item = self.batch_at(step, rank=rank, world_size=world_size)
                except BaseException as error:  # handed to the consumer, who raises it
                    item = error
                _put(ready, item, stop)
                if isinstance(item, BaseException):
                    return
                step += 1

        thread = threading.Thread(target=read_ahead, name="latent-prefetch", daemon=True)
        thread.start()
        try:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()

    def memory_bytes(self, *, world_size: int = 1) -> int:
        """Bytes that a rank takes at most: windows, batches that are ready, and the order.

        Windows are ``stores x lanes of the rank x 2 windows x window_slabs x slab``; the order is a
        byte per row and 44 bytes per slab.
        """
        lanes = self._lanes_per_rank(world_size)
        windows = sum(each.buffer_rows for each in self._windows) * WINDOWS_PER_LANE * lanes
        batches = (PREFETCHED_BATCHES + 2) * self.batch // world_size
        order = sum(store.num_rows for store in self.stores)
        order += sum(each.order.grid.num_slabs for each in self._windows) * BYTES_PER_SLAB
        return (windows + batches) * self.stores[0].layout.row_bytes + order

    def close(self) -> None:
        """Ends the threads; slabs that wait to be read are not read any more.

        One line of the log says what was fetched of the stores since the mixture was opened.
        """
        self._threads.shutdown(cancel_futures=True)
        fetched, given = (now - then for now, then in zip(_counted(), self._before, strict=True))
        if given:
            _log.info(
                "latents: %.3f GB fetched for %.3f GB of rows (%.2f bytes a byte)",
                fetched / 1e9, given / 1e9, fetched / given,
            )  # fmt: skip

    def _lanes_per_rank(self, world_size: int) -> int:
        if self.num_lanes % world_size:
            raise ConfigError(
                f"world size {world_size} must divide num_lanes={self.num_lanes}; change the ranks"
                " of the site"
            )
        return self.num_lanes // world_size

    def _copy_rows(self, lane: int, start: int, into: LatentBatch) -> None:
        """Fills ``into`` with the draws of a lane from number ``start`` on."""
        stores, draws = self._cycle.draws(lane, start, start + len(into.row_B))
        into.store_B[:] = stores
        for number in np.flatnonzero(np.bincount(stores)):
            places = np.flatnonzero(stores == number)
            done = 0
            while done < len(places):
                done += self._copy_window(
                    int(number), lane, int(draws[places[done]]), places[done:], into
                )

    def _copy_window(
        self, number: int, lane: int, draw: int, places: Int64s, into: LatentBatch
    ) -> int:
        """Copies draws of one window to their places in the batch; says how many they were."""
        windows = self._windows[number]
        loaded, offset = windows.at(lane, draw)
        rows = loaded.window.rows_D[offset : offset + len(places)]
        inside = loaded.window.places_D[offset : offset + len(places)]
        try:
            moments = loaded.moments()
        except BaseException:
            windows.forget(lane)
            raise
        into.row_B[places[: len(rows)]] = rows
        if len(rows) == len(into.row_B):
            np.take(moments, inside, axis=0, out=into.moments_BMHW, mode="clip")
        else:  # several stores or windows: row by row is still one copy
            for place, row in zip(places.tolist(), inside.tolist(), strict=False):
                into.moments_BMHW[place] = moments[row]
        return len(rows)


def _counted() -> tuple[int, int]:
    """Bytes that this process has fetched of stores, and given as rows."""
    return metrics.total(metrics.READER_FETCHED_BYTES), metrics.total(metrics.READER_GIVEN_BYTES)


def _order(
    store: LatentStore, split: str, *, num_lanes: int, seed: int, settings: ReaderSettings
) -> LaneOrder:
    code = store.flags.code(split)
    grid = SlabGrid.of(store.layout, slab_bytes=settings.slab_bytes)
    order = code and LaneOrder(
        store.flags.codes, code, grid, num_lanes, settings.window_slabs, seed
    )
    if not order or not order.num_rows:
        raise ArtifactError(f"{store.path}: has no valid rows in split '{split}'")
    return order


def _require_same_kind(stores: Sequence[LatentStore]) -> None:
    if not stores:
        raise ConfigError("no latent store is given; name at least one")
    first = stores[0]
    for store in stores[1:]:
        store.require_encoder(first.encoder_sha256, owner=str(first.path))
        for name in ("moment_shape", "patch_px", "mpp"):
            mine, theirs = getattr(store, name), getattr(first, name)
            if mine != theirs:
                raise ArtifactError(
                    f"{store.path}: {name}={mine}, but {first.path} has {theirs}; a mixture needs"
                    " one scale"
                )


def _put(
    ready: "queue.Queue[LatentBatch | BaseException]",
    item: LatentBatch | BaseException,
    stop: threading.Event,
) -> None:
    """Waits for a free place, unless the consumer has gone."""
    while not stop.is_set():
        with suppress(queue.Full):
            ready.put(item, timeout=0.1)
            return
