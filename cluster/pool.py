"""Pools of Ray actors that do units of work and survive the loss of a worker.

A unit is given to one actor at a time. If its actor dies (killed process, lost node, memory), the
actor is replaced and the unit given out again; a ``TransientError`` is retried with back-off; both
are bounded, then they escalate. Any other exception is the worker's and is raised here as it was.

Encoding has two kinds of actors. The encoder of a unit gets blocks of pixels from the readers, in
order, read ahead by a thread of its process (``prefetching``): a few parts and no further, that is
the back-pressure. It is given its next unit before it has committed the last one, so that reading
goes on and a commit waits for nobody. Pixels go from reader to encoder through Ray's object store,
never through the driver.

Actors come as places for them come: those that wait for a node keep nobody waiting, and one that
joins late gets its share. Units are made when they are given out, never all at once.
"""

import heapq
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayTaskError

from histodiff.cluster.capacity import ActorResources
from histodiff.cluster.prefetching import LOST, BlockPrefetcher
from histodiff.cluster.session import ray_session
from histodiff.errors import TransientError
from histodiff.runtime import Encoder, Finished, PixelBlock, Prefetched, Reader, Worker

__all__ = ["ActorResources", "Retries", "ray_session", "run_encode_pool", "run_pool"]

_log = logging.getLogger(__name__)

_STARVED_SECONDS = 60.0
_BLOCKS_AHEAD = 1
_UNITS_PER_ENCODER = 2
"""One is encoded; the other is read ahead, or committed."""

UnitT = TypeVar("UnitT")
PartT = TypeVar("PartT")
RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class Retries:
    """How often a unit is tried again, and how long is waited after a TransientError."""

    count: int = 3
    backoff_seconds: float = 1.0
    backoff_limit_seconds: float = 30.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after the ``failures``-th failure; doubles every time."""
        return min(self.backoff_seconds * 2.0 ** (failures - 1), self.backoff_limit_seconds)


def run_pool(
    make_worker: Callable[[], Worker[UnitT, RecordT]],
    units: Sequence[UnitT],
    *,
    num_workers: int,
    units_each: int = 1,
    resources: ActorResources | None = None,
    retries: Retries | None = None,
) -> Iterator[Finished[UnitT, RecordT]]:
    """Runs every unit on a pool of actors; yields units as they finish.

    Args:
        make_worker: Makes the worker, in the actor's process.
        units: The work; a unit is asked for when it is given out.
        num_workers: Actors, at most one per unit.
        units_each: Units that an actor has at once, as long as there are enough for all; above one,
            threads of the actor call its worker, which has to bear that.
        resources: What each actor reserves.
        retries: What is done about lost actors and transient errors.

    Raises:
        TransientError: A unit lost its actor, or failed transiently, too often.
    """
    options = {**_options(resources), "max_concurrency": units_each}

    def start_actor() -> Any:
        return ray.remote(_WorkerHost).options(**options).remote(make_worker)

    pool: _Pool[UnitT, RecordT] = _Pool(
        start_actor, units, num_workers, retries or Retries(), units_each=units_each
    )
    with pool:
        yield from pool.finished()


def run_encode_pool(
    make_reader: Callable[[], Reader[PartT]],
    make_encoder: Callable[[], Encoder[UnitT, RecordT]],
    units: Sequence[UnitT],
    *,
    parts_of: Callable[[UnitT], Sequence[PartT]],
    num_readers: int,
    num_encoders: int,
    reader_resources: ActorResources | None = None,
    encoder_resources: ActorResources | None = None,
    retries: Retries | None = None,
) -> Iterator[Finished[UnitT, RecordT]]:
    """Encodes every unit with a pool of encoders fed by a pool of readers.

    Args:
        make_reader: Makes a reader, in its actor's process.
        make_encoder: Makes an encoder, in its actor's process.
        units: The work; an encoder commits one at a time.
        parts_of: The parts of a unit, in the order in which the encoder gets their blocks.
        num_readers: Reader actors, shared by all encoders.
        num_encoders: Encoder actors, at most one per unit.
        reader_resources: What each reader reserves.
        encoder_resources: What each encoder reserves.
        retries: What is done about lost actors and transient errors.

    Raises:
        TransientError: A unit lost an actor, or failed transiently, too often.
    """
    retries = retries or Retries()
    survives = {**_options(reader_resources), "max_restarts": -1}
    reader_class = ray.remote(_ReaderHost).options(**survives)
    readers = [reader_class.remote(make_reader) for _ in range(num_readers)] if units else []
    for reader in readers:
        reader.ready.remote()  # made while encoders start; if that fails, who reads is told
    encoder_options = {**_options(encoder_resources), "max_concurrency": _UNITS_PER_ENCODER}
    window = max(2, -(-2 * num_readers // num_encoders))

    def start_actor() -> Any:
        host = ray.remote(_EncoderHost).options(**encoder_options)
        return host.remote(make_encoder, readers, parts_of, _Reading(window, retries.count))

    try:
        pool: _Pool[UnitT, RecordT] = _Pool(
            start_actor, units, num_encoders, retries, units_each=_UNITS_PER_ENCODER
        )
        with pool:
            yield from pool.finished()
    finally:
        for reader in readers:
            ray.kill(reader)


class _WorkerHost(Generic[UnitT, RecordT]):
    """The actor around a worker; the worker is made in ``start``, so that its errors are plain."""

    def __init__(self, make_worker: Callable[[], Worker[UnitT, RecordT]]) -> None:
        self._make_worker = make_worker

    def start(self) -> None:
        self._worker = self._make_worker()

    def run(self, unit: UnitT) -> RecordT:
        return self._worker.run(unit)


class _ReaderHost(Generic[PartT]):
    """The actor around a reader, which is made when the actor is first asked for anything.

    A restart repeats no read by itself: the encoder gives it to a reader that is there.
    """

    def __init__(self, make_reader: Callable[[], Reader[PartT]]) -> None:
        self._make_reader = make_reader

    @cached_property
    def _reader(self) -> Reader[PartT]:
        return self._make_reader()

    @ray.method(max_task_retries=-1)  # type: ignore[untyped-decorator]
    def ready(self) -> None:
        """Answers as soon as there is a reader, also after a restart."""
        _ = self._reader

    def read(self, part: PartT) -> PixelBlock:
        return self._reader.read(part)


@dataclass(frozen=True)
class _Reading:
    """How an encoder reads ahead."""

    window: int
    losses: int


class _EncoderHost(Generic[UnitT, PartT, RecordT]):
    """The actor around an encoder; Ray calls ``run`` in as many threads as it may have units."""

    def __init__(
        self,
        make_encoder: Callable[[], Encoder[UnitT, RecordT]],
        readers: Sequence[Any],
        parts_of: Callable[[UnitT], Sequence[PartT]],
        reading: _Reading,
    ) -> None:
        self._make_encoder = make_encoder
        self._readers = readers
        self._parts_of = parts_of
        self._reading = reading

    def start(self) -> None:
        self._encoder = self._make_encoder()

    def run(self, unit: UnitT) -> RecordT:
        reads = BlockPrefetcher(
            self._readers,
            self._parts_of(unit),
            window=self._reading.window,
            losses=self._reading.losses,
        )
        with Prefetched(reads.blocks(), ahead=_BLOCKS_AHEAD) as blocks:
            return self._encoder.run(unit, blocks)


@dataclass(frozen=True)
class _Waiting(Generic[UnitT]):
    """A unit to be done, with the times it has failed."""

    unit: UnitT
    failures: int = 0


@dataclass(eq=False)
class _Host:
    """An actor that has started, and how many units it has."""

    actor: Any
    units: int = 0


class _Pool(Generic[UnitT, RecordT]):
    """The loop that both pools share: start actors, give out units, replace what dies."""

    def __init__(
        self,
        start_actor: Callable[[], Any],
        units: Sequence[UnitT],
        num_actors: int,
        retries: Retries,
        *,
        units_each: int = 1,
    ) -> None:
        self._start_actor = start_actor
        self._retries = retries
        self._units_each = units_each
        self._new = iter(units)
        self._num_new = len(units)
        self._again: list[_Waiting[UnitT]] = []
        self._delayed: list[tuple[float, int, _Waiting[UnitT]]] = []
        self._starting: dict[Any, Any] = {}
        self._hosts: list[_Host] = []
        self._running: dict[Any, tuple[_Host, _Waiting[UnitT]]] = {}
        self._num_actors = min(num_actors, len(units))
        self._failed_starts = 0
        self._number = 0

    def __enter__(self) -> "_Pool[UnitT, RecordT]":
        for _ in range(self._num_actors):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        for actor in [*self._starting.values(), *(host.actor for host in self._hosts)]:
            ray.kill(actor)

    def finished(self) -> Iterator[Finished[UnitT, RecordT]]:
        """Units with their records, as they finish."""
        while self._num_waiting or self._delayed or self._running:
            self._give_out()
            for reference in self._next_events():
                if reference in self._starting:
                    self._started(reference)
                else:
                    yield from self._ended(reference)

    @property
    def _num_waiting(self) -> int:
        return len(self._again) + self._num_new

    def _start(self) -> None:
        actor = self._start_actor()
        self._starting[actor.start.remote()] = actor

    def _give_out(self) -> None:
        while self._delayed and self._delayed[0][0] <= time.monotonic():
            self._again.append(heapq.heappop(self._delayed)[2])
        while self._num_waiting and (host := self._host_with_room()):
            waiting = self._next_waiting()
            host.units += 1
            self._running[host.actor.run.remote(waiting.unit)] = (host, waiting)

    def _host_with_room(self) -> _Host | None:
        """The host with the least to do; a further unit each only while there are enough for all.

        The last ones are left to those that are free first, and to those that are starting.
        """
        host = min(self._hosts, key=lambda each: each.units, default=None)
        if host is None or host.units == 0:
            return host
        enough = self._num_waiting >= len(self._hosts) + len(self._starting)
        return host if enough and host.units < self._units_each else None

    def _next_waiting(self) -> _Waiting[UnitT]:
        if self._again:
            return self._again.pop(0)
        self._num_new -= 1
        return _Waiting(next(self._new))

    def _next_events(self) -> list[Any]:
        pending = [*self._starting, *self._running]
        limit = _STARVED_SECONDS
        if self._delayed:
            limit = max(0.0, self._delayed[0][0] - time.monotonic())
        if not pending:
            time.sleep(limit)
            return []
        ready, _ = ray.wait(pending, timeout=limit)
        if not ready and not self._running and not self._hosts:
            _log.warning(
                "no worker has started for %.0f s; waiting: are there free CPUs and GPUs for it?",
                _STARVED_SECONDS,
            )
        return list(ready)

    def _started(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        try:
            ray.get(reference)
        except LOST as error:
            self._failed_starts += 1
            if self._failed_starts > self._retries.count:
                raise TransientError(
                    f"workers died {self._failed_starts} times while starting: {_brief(error)}"
                ) from error
            self._start()
        except RayTaskError as error:
            self._hosts.append(_Host(actor))
            raise _cause(error) from error
        else:
            self._failed_starts = 0
            self._hosts.append(_Host(actor))

    def _ended(self, reference: Any) -> Iterator[Finished[UnitT, RecordT]]:
        host, waiting = self._running.pop(reference)
        host.units -= 1
        try:
            record: RecordT = ray.get(reference)
        except LOST as error:
            self._replace(host)
            self._retry(waiting, error, after=0.0)
        except RayTaskError as error:
            cause = _cause(error)
            if not isinstance(cause, (*LOST, TransientError)):
                raise cause from error
            self._retry(waiting, cause, after=self._retries.delay(waiting.failures + 1))
        else:
            yield Finished(waiting.unit, record)

    def _replace(self, host: _Host) -> None:
        """Starts another actor; once, though all units of the lost one come back."""
        if host in self._hosts:
            self._hosts.remove(host)
            self._start()

    def _retry(self, waiting: _Waiting[UnitT], error: Exception, *, after: float) -> None:
        failures = waiting.failures + 1
        if failures > self._retries.count:
            raise TransientError(
                f"a unit failed {failures} times, the last time because: {_brief(error)}; what is"
                " done is kept: mend the cause and run the same command again"
            ) from error
        _log.warning("retry %d of %d: %s", failures, self._retries.count, _brief(error))
        self._number += 1
        due = time.monotonic() + after
        heapq.heappush(self._delayed, (due, self._number, _Waiting(waiting.unit, failures)))


def _options(resources: ActorResources | None) -> dict[str, Any]:
    wanted = resources or ActorResources()
    return {
        "num_cpus": wanted.num_cpus,
        "num_gpus": wanted.num_gpus,
        "scheduling_strategy": "SPREAD",
    }


def _cause(error: RayTaskError) -> Exception:
    """What the worker raised."""
    cause = error.cause
    return cause if isinstance(cause, Exception) else error


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
