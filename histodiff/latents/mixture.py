"""A weighted mixture of stores as training reads it: a batch is a pure function of its step.

A global batch of B rows takes B / num_lanes rows of every lane, in lane order. Rank r of W works
on lanes ``r * num_lanes / W`` to ``(r + 1) * num_lanes / W``: the same global batch, cut in W
pieces, for every W that divides the lanes; slabs are not read by two ranks (but where a lane's
piece is cut).
Threads, never forked workers: storage clients do not survive a fork.
"""

import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.errors import ArtifactError, ConfigError
from histodiff.latents.lanes import LaneOrder, StoreCycle, cycle_quotas
from histodiff.latents.store import LatentStore
from histodiff.runtime import derived_seed

SLAB_BYTES = 4 * 2**20
WINDOW_SLABS = 2
CACHED_STORE_BYTES = 2**30
PREFETCHED_BATCHES = 2

Int64s = npt.NDArray[np.int64]


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


class LatentMixture:
    """Stores, drawn from by weight.

    Args:
        stores: Stores of one encoder, one patch size and one scale.
        weights: Share of the draws of each store, relative.
        split: Only rows of this split are drawn.
        seed: Seed of the order.
        batch: Rows of a global batch.
        num_lanes: Lanes; divides the batch. Part of the order.

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
        self._orders = tuple(
            _order(store, split, num_lanes=num_lanes, seed=derived_seed(seed, "store", number))
            for number, store in enumerate(stores)
        )
        self._slabs = tuple(_Slabs(store, num_lanes) for store in stores)
        self._lock = threading.Lock()

    @property
    def num_rows(self) -> int:
        """Rows that are drawn from, over all stores."""
        return sum(len(order.rows) for order in self._orders)

    def batch_at(self, step: int, *, rank: int = 0, world_size: int = 1) -> LatentBatch:
        """The rows of ``rank`` in global batch number ``step``."""
        per_rank = self._lanes_per_rank(world_size)
        per_lane = self.batch // self.num_lanes
        lanes = range(rank * per_rank, (rank + 1) * per_rank)
        with self._lock:
            drawn = [self._drawn(lane, step * per_lane, (step + 1) * per_lane) for lane in lanes]
            store_B = np.concatenate([stores for stores, _ in drawn])
            row_B = np.concatenate([rows for _, rows in drawn])
            moments = self._read(store_B, row_B)
        first = step * self.batch + lanes.start * per_lane
        return LatentBatch(moments, first + np.arange(len(row_B)), store_B, row_B)

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

    def _lanes_per_rank(self, world_size: int) -> int:
        if self.num_lanes % world_size:
            raise ConfigError(
                f"world size {world_size} must divide num_lanes={self.num_lanes}; change the ranks"
                " of the site"
            )
        return self.num_lanes // world_size

    def _drawn(self, lane: int, start: int, stop: int) -> tuple[Int64s, Int64s]:
        stores, draws = self._cycle.draws(lane, start, stop)
        rows = np.empty_like(draws)
        for number in np.unique(stores):
            mine = stores == number
            rows[mine] = self._orders[number].rows_at(lane, draws[mine])
        return stores, rows

    def _read(self, store_B: Int64s, row_B: Int64s) -> npt.NDArray[np.float16]:
        moments = np.empty((len(row_B), *self.stores[0].moment_shape), np.float16)
        for number in np.unique(store_B):
            mine = np.flatnonzero(store_B == number)
            self._slabs[number].copy_rows(row_B[mine], moments, mine)
        return moments


class _Slabs:
    """Slabs of a store, kept in memory: all of a small store, else the latest few per lane."""

    def __init__(self, store: LatentStore, num_lanes: int) -> None:
        self._store = store
        self._rows = slab_rows(store)
        total = store.num_rows * store.layout.row_bytes
        small = total <= CACHED_STORE_BYTES
        self._limit = -(-store.num_rows // self._rows) if small else num_lanes * (WINDOW_SLABS + 1)
        self._kept: OrderedDict[int, npt.NDArray[np.float16]] = OrderedDict()

    def copy_rows(self, rows: Int64s, into: npt.NDArray[np.float16], places: Int64s) -> None:
        """Copies ``rows`` to ``into[places]``."""
        slab_of = rows // self._rows
        for slab in np.unique(slab_of):
            mine = slab_of == slab
            into[places[mine]] = self._slab(int(slab))[rows[mine] - slab * self._rows]

    def _slab(self, slab: int) -> npt.NDArray[np.float16]:
        if slab not in self._kept:
            start = slab * self._rows
            stop = min(start + self._rows, self._store.num_rows)
            while len(self._kept) >= self._limit:
                self._kept.popitem(last=False)
            self._kept[slab] = self._store.read(start, stop)
        self._kept.move_to_end(slab)
        return self._kept[slab]


def slab_rows(store: LatentStore) -> int:
    """Rows of a slab: about ``SLAB_BYTES``, whole inner chunks, within one shard."""
    layout = store.layout
    wanted = max(1, SLAB_BYTES // (layout.rows_per_chunk * layout.row_bytes))
    chunks = max(k for k in range(1, min(wanted, layout.chunks_per_shard) + 1)
                 if layout.chunks_per_shard % k == 0)  # fmt: skip
    return chunks * layout.rows_per_chunk


def _order(store: LatentStore, split: str, *, num_lanes: int, seed: int) -> LaneOrder:
    rows = store.rows_of_split(split)
    if not len(rows):
        raise ArtifactError(f"{store.path}: has no valid rows in split '{split}'")
    size = slab_rows(store)
    return LaneOrder(rows, size, num_lanes, WINDOW_SLABS * size, seed)


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
