"""Blocks of pixels from reader actors, in order, while some of the readers come and go.

It runs in the process of an encoder. A part goes to the reader with the least to do among those
that have answered; a reader that still waits for a place, or is lost and restarted elsewhere, gets
none until it answers again, so that it keeps nobody waiting. Reading changes nothing: a part whose
reader is lost is read again by another.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import ObjectLostError, RayActorError, WorkerCrashedError

from histodiff.errors import TransientError
from histodiff.runtime import PixelBlock

LOST = (RayActorError, ObjectLostError, WorkerCrashedError)
"""What Ray raises when a process or a node is gone."""

PartT = TypeVar("PartT")


class BlockPrefetcher(Generic[PartT]):
    """Reads the parts of one unit.

    Args:
        readers: Reader actors with ``read`` and ``ready``, none of which need be there yet.
        parts: What to read.
        window: Blocks that are read or wait at the same time; this is the back-pressure.
        losses: How often one part may lose its reader.
    """

    def __init__(
        self, readers: Sequence[Any], parts: Sequence[PartT], *, window: int, losses: int
    ) -> None:
        self._parts = parts
        self._window = window
        self._losses = losses
        self._unsent = list(range(len(parts)))[::-1]
        self._probes: dict[Any, Any] = {}
        self._free: list[tuple[Any, list[Any]]] = []
        self._reads: dict[Any, int] = {}
        self._blocks: dict[int, PixelBlock] = {}
        self._lost: Counter[int] = Counter()
        for reader in readers:
            self._probe(reader)

    def blocks(self) -> Iterator[PixelBlock]:
        """Blocks of the parts, in order.

        Raises:
            TransientError: No reader is left.
        """
        for number in range(len(self._parts)):
            while number not in self._blocks:
                self._send()
                self._receive()
            yield self._blocks.pop(number)

    def _probe(self, reader: Any) -> None:
        self._probes[reader.ready.remote()] = reader

    def _send(self) -> None:
        while self._unsent and self._free and len(self._reads) + len(self._blocks) < self._window:
            reader, busy = min(self._free, key=lambda each: len(each[1]))
            number = self._unsent.pop()
            reference = reader.read.remote(self._parts[number])
            busy.append(reference)
            self._reads[reference] = number

    def _receive(self) -> None:
        """Waits until a part is read, or a reader answers or is lost."""
        pending = [*self._reads, *self._probes]
        if not pending:
            raise TransientError("all readers are lost; run the same command again")
        (reference,), _ = ray.wait(pending, num_returns=1)
        if reference in self._probes:
            self._answered(reference)
        else:
            self._landed(reference)

    def _answered(self, reference: Any) -> None:
        reader = self._probes.pop(reference)
        try:
            ray.get(reference)
        except LOST:
            return  # for good: Ray restarts readers as often as it takes
        self._free.append((reader, []))

    def _landed(self, reference: Any) -> None:
        number = self._reads.pop(reference)
        try:
            self._blocks[number] = ray.get(reference)
        except LOST:
            self._lost[number] += 1
            if self._lost[number] > self._losses:
                raise
            self._unsent.append(number)
            self._suspect(reference)
            return
        for _, busy in self._free:
            if reference in busy:
                busy.remove(reference)

    def _suspect(self, reference: Any) -> None:
        """Takes the reader of a lost read out until it answers again."""
        for place, (reader, busy) in enumerate(self._free):
            if reference in busy:
                del self._free[place]
                self._probe(reader)
                return
