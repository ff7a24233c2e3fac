"""One driver at a time: the lease of an artifact that is being written.

A lease is an object ``driver/<number>.json`` that says who writes. It is created where none is, and
the highest number holds: whoever takes over from a dead driver creates the next number, so of
several that try one wins, and nothing has to be deleted first. The driver puts its object again
every few seconds. It is dead when its process is gone, which only the same machine can see at once,
or when its object has not been put for a minute by the storage's own clock. A driver that finds a
higher number has lost its lease, and does not publish.
"""

import json
import logging
import os
import platform
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from histodiff.errors import ArtifactBusy
from histodiff.storage import (
    StoragePath,
    create_bytes,
    list_names,
    modified_at,
    read_bytes,
    remove_file,
    write_bytes,
)

DRIVER_FOLDER = "driver"
RENEW_SECONDS = 10.0
DEAD_SECONDS = 60.0
_LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Driver:
    """Who writes an artifact."""

    id: str
    """Random, of this one lease."""
    host: str
    """Name of the machine, for people."""
    machine: str
    """Identity of the running machine and its process numbers; empty where it has none."""
    pid: int
    """Process number on that machine."""
    process_started: str
    """Start of the process in the machine's clock ticks: process numbers are used again."""
    since: str
    """When the lease was taken, by the driver's clock, for people."""

    @classmethod
    def here(cls) -> "Driver":
        """This process, with a lease of its own."""
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        pid = os.getpid()
        return cls(
            uuid.uuid4().hex, platform.node(), _machine(), pid, process_start(pid) or "", since
        )

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    def is_gone(self) -> bool | None:
        """Whether its process has ended; None where this cannot be seen from here."""
        if not self.machine or self.machine != _machine():
            return None
        return process_start(self.pid) != self.process_started


class Lease:
    """The right to write the artifact at ``path``, for the time of the block.

    Raises:
        ArtifactBusy: Another driver is at work, or took the lease over.
    """

    def __init__(self, path: StoragePath) -> None:
        self._path = path
        self._driver = Driver.here()
        self._number = 0
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="driver-lease", daemon=True)

    def __enter__(self) -> "Lease":
        while not self._number:
            self._number = self._taken()
        self._renewer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._renewer.join()
        try:
            for number in _numbers(self._path):
                if number <= self._number:
                    remove_file(_place(self._path, number))
        except Exception as error:  # what the block gave or raised counts more
            _log.warning("%s: lease not given back: %s", self._path, error)

    def check(self) -> None:
        """Raises ArtifactBusy if another driver has taken over."""
        if _numbers(self._path)[-1:] != [self._number]:
            raise ArtifactBusy(
                f"{self._path}: another driver took over from this one ({self._driver}), which had"
                f" not been heard of for {DEAD_SECONDS:.0f} s; it stops here and publishes nothing:"
                " let the other one finish, or run the same command again when it has ended"
            )

    def _taken(self) -> int:
        """The number of the lease; 0 if somebody was quicker."""
        before = _numbers(self._path)
        if before:
            require_dead(self._path)
        number = before[-1] + 1 if before else 1
        if not create_bytes(_place(self._path, number), self._bytes()):
            return 0
        if _numbers(self._path)[-1:] == [number]:
            return number
        remove_file(_place(self._path, number))
        return 0

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                self.check()
                write_bytes(_place(self._path, self._number), self._bytes())
            except ArtifactBusy as error:
                _log.error("%s", error)
                return
            except Exception as error:  # the next try may succeed; publishing checks for itself
                _log.warning("%s: lease not renewed: %s", self._path, error)

    def _bytes(self) -> bytes:
        return (json.dumps(asdict(self._driver), indent=2) + "\n").encode()


def require_dead(path: StoragePath) -> None:
    """Returns when no driver writes the artifact at ``path``; waits where this takes time to see.

    Raises:
        ArtifactBusy: One does.
    """
    numbers = _numbers(path)
    if not numbers:
        return
    place = _place(path, numbers[-1])
    try:
        driver = Driver(**json.loads(read_bytes(place)))
        gone = driver.is_gone()
        if gone is None:
            gone = _falls_silent(path, place, driver)
    except FileNotFoundError:  # given back just now
        return
    if not gone:
        raise ArtifactBusy(
            f"{path}: is being written by another driver ({driver}); wait until it has ended, or"
            f" end it (kill {driver.pid} on {driver.host}), and run the same command again"
        )
    _log.info("%s: its driver (%s) is gone; taking over", path, driver)


def process_start(pid: int) -> str | None:
    """Start of a running process in clock ticks since boot; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started


def _falls_silent(path: StoragePath, place: StoragePath, driver: Driver) -> bool:
    """Watches a driver of another machine: False at its next sign, True when it is overdue."""
    last = modified_at(place)
    left = DEAD_SECONDS - (_storage_now(path) - last).total_seconds()
    if left > 0:
        _log.warning(
            "%s: has a driver on another machine (%s); waiting up to %.0f s for a sign of it",
            path, driver, left,
        )  # fmt: skip
    until = time.monotonic() + left
    while time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
        if modified_at(place) != last:
            return False
    return True


def _storage_now(path: StoragePath) -> datetime:
    """The storage's clock: when an object that is put now was put."""
    probe = path / DRIVER_FOLDER / f"clock-{uuid.uuid4().hex}"
    write_bytes(probe, b"")
    try:
        return modified_at(probe)
    finally:
        remove_file(probe)


def _machine() -> str:
    """This boot of this machine, and the name space of its process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _numbers(path: StoragePath) -> list[int]:
    stems = [name.removesuffix(".json") for name in list_names(path / DRIVER_FOLDER)]
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def _place(path: StoragePath, number: int) -> StoragePath:
    return path / DRIVER_FOLDER / f"{number:06d}.json"
