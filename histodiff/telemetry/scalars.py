"""Scalars over the training clock as TensorBoard files, beside the artifact or on object storage.

The event file is written on this machine by tensorboardX; for a remote folder it is put anew,
whole, at every flush: it grows by some hundred bytes a row, and object storage knows no appends.
"""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from histodiff.storage import StoragePath, is_local, upload_tree


class ScalarLog:
    """An event file of one process.

    Args:
        folder: Where it is to lie; earlier files there stay, TensorBoard shows them as one curve.
        start: Clock at which this process starts; what an earlier one wrote beyond it is not shown.
    """

    def __init__(self, folder: StoragePath, *, start: int) -> None:
        self._folder = folder
        self._scratch = (
            None if is_local(folder) else tempfile.TemporaryDirectory(prefix="histodiff-")
        )
        self._local = Path(self._scratch.name if self._scratch else folder.path)
        self._local.mkdir(parents=True, exist_ok=True)
        # Not SummaryWriter: its thread writes some time after `flush` has returned.
        self._events = EventsWriter(str(self._local / "events"), f".{start}")
        self._put(Event(step=start, session_log=SessionLog(status=SessionLog.START)))
        self._publish()

    def add(self, values: Mapping[str, float], *, images_seen: int) -> None:
        """Appends one point of each curve and makes them visible."""
        for name, value in values.items():
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
