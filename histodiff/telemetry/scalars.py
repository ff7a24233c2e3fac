"""Scalars over the training clock as TensorBoard files, beside the artifact or on object storage.

The event file is written on this machine by tensorboardX; for a remote folder it is put anew,
whole, at every flush: it grows by some hundred bytes a row, and object storage knows no appends.
Files of earlier processes are cut where this one starts, so that no point is there twice whatever
reads them.
"""

import struct
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from histodiff.storage import (
    StoragePath,
    is_local,
    list_names,
    read_bytes,
    upload_tree,
    write_bytes,
)

_MARK = ".tfevents."
_LENGTH_BYTES, _CRC_BYTES = 8, 4


class ScalarLog:
    """An event file of one process.

    Args:
        folder: Where it is to lie; earlier files there stay, TensorBoard shows them as one curve.
        start: First clock of this process; points that earlier ones wrote from there on are removed
            and hidden.
    """

    def __init__(self, folder: StoragePath, *, start: int) -> None:
        self._folder = folder
        self._last = _cut(folder, start=start)
        self._scratch = (
            None if is_local(folder) else tempfile.TemporaryDirectory(prefix="histodiff-")
        )
        self._local = Path(self._scratch.name if self._scratch else folder.path)
        self._local.mkdir(parents=True, exist_ok=True)
        # Not SummaryWriter: its thread writes some time after `flush` has returned. The name has
        # seconds only, and a run that goes back starts anew sooner.
        suffix = f".{start}.{uuid.uuid4().hex[:8]}"
        self._events = EventsWriter(str(self._local / "events"), suffix)
        self._put(Event(step=start, session_log=SessionLog(status=SessionLog.START)))
        self._publish()

    def add(self, values: Mapping[str, float], *, images_seen: int) -> None:
        """Appends one point of each curve and makes them visible."""
        self.extend([(images_seen, values)])

    def extend(self, points: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Appends points ``(images_seen, values)``, but for those that the curves have already."""
        for images_seen, values in points:
            for name, value in values.items():
                if images_seen > self._last.get(name, -1):
                    self._last[name] = images_seen
                    self._put(Event(step=images_seen, summary=scalar(name, value)))
        self._publish()

    def close(self) -> None:
        """Ends the file."""
        self._events.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _put(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)

    def _publish(self) -> None:
        self._events.flush()
        if self._scratch is not None:
            upload_tree(self._local, self._folder)


def _cut(folder: StoragePath, *, start: int) -> dict[str, int]:
    """Removes points from ``start`` on of all files; the last clock of each curve that is left."""
    last: dict[str, int] = {}
    for name in list_names(folder):
        if _MARK not in name:
            continue
        data = read_bytes(folder / name)
        kept = []
        for record, event in _records(data):
            if event.summary.value and event.step >= start:
                continue
            kept.append(record)
            for value in event.summary.value:
                last[value.tag] = max(event.step, last.get(value.tag, -1))
        if (shorter := b"".join(kept)) != data:
            write_bytes(folder / name, shorter)
    return last


def _records(data: bytes) -> Iterator[tuple[bytes, Event]]:
    """Whole records of an event file (length, its crc, event, its crc), without a torn last one."""
    place = 0
    while place + _LENGTH_BYTES <= len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        begin = place + _LENGTH_BYTES + _CRC_BYTES
        end = begin + length + _CRC_BYTES
        if end > len(data):
            return
        yield data[place:end], Event.FromString(data[begin : begin + length])
        place = end
