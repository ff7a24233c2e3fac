"""Slabs of remote stores, kept on local disk up to a limit, shared by the ranks of a node.

A slab is a file named by the digest of its shard, so that a store that was written anew is never
mixed up with the old one. A file ends with the CRC-32C of its bytes; one that does not match is
removed, and the slab fetched again. Files are written under another name and renamed.
Room is made under a lock of the folder: the space of a new file is taken before its bytes are
written, after the least recently used files have gone, so that the limit holds at every moment.
The lock file has the bytes in use, rather too many than too few; the folder is listed only where
they seem to exceed the limit.
"""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import google_crc32c
import numpy as np

from histodiff.telemetry import metrics

_CHECKSUM_BYTES = 4
_SPARE = 20
"""A twentieth of the limit is freed at once, so that the folder is listed rarely."""
_USED, _PART, _SLAB = "used", ".part", ".slab"
_USED_BYTES = 20


@dataclass(frozen=True)
class SlabCache:
    """Slabs in a local folder.

    Args:
        folder: Where; made when it is not there.
        limit_bytes: Bytes of all files in it.
    """

    folder: Path
    limit_bytes: int

    def get(self, name: str, buffer: memoryview, *, skip: int, total: int) -> bool:
        """Fills ``buffer`` with bytes of a kept slab from ``skip`` on; False where there is none.

        Args:
            name: Name of the slab.
            buffer: Filled; has unspecified bytes where the answer is False.
            skip: First byte of the slab that is wanted.
            total: Bytes of the slab. A file of another size is damaged.
        """
        path = self.folder / f"{name}{_SLAB}"
        whole = buffer if len(buffer) == total else memoryview(bytearray(total))
        try:
            intact = _read_checked(path, whole)
        except FileNotFoundError:
            metrics.READER_CACHE.labels(outcome="miss").inc()
            return False
        metrics.READER_CACHE.labels(outcome="hit" if intact else "damaged").inc()
        if not intact:
            path.unlink(missing_ok=True)
            return False
        if whole is not buffer:
            buffer[:] = whole[skip : skip + len(buffer)]
        with suppress(FileNotFoundError):  # another rank may have removed it meanwhile
            os.utime(path)
        return True

    def put(self, name: str, content: memoryview) -> None:
        """Keeps a slab, if there is room for it."""
        part = self.folder / f"{name}.{uuid.uuid4().hex}{_PART}"
        try:
            with self._reserved(part, len(content) + _CHECKSUM_BYTES) as file:
                if file is None:
                    return
                for data in (content, memoryview(_checksum(content))):
                    file.write(data)
                with self._locked():  # a listing must not miss it under both names
                    part.replace(self.folder / f"{name}{_SLAB}")
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def _reserved(self, part: Path, size: int) -> Iterator[FileIO | None]:
        """A new file, whose bytes count from the beginning; None where there is no room."""
        with self._locked() as record:
            used = self._used_after_making_room(int(record.read() or 0), size)
            if used + size > self.limit_bytes:
                yield None
                return
            record.seek(0)
            record.write(f"{used + size:{_USED_BYTES}d}".encode())
            file = FileIO(part, "xb")
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed: its writer is alive
            file.truncate(size)
        with file:
            yield file

    @contextmanager
    def _locked(self) -> Iterator[FileIO]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileIO(os.open(self.folder / _USED, os.O_CREAT | os.O_RDWR), "rb+") as record:
            fcntl.flock(record, fcntl.LOCK_EX)
            yield record

    def _used_after_making_room(self, used: int, size: int) -> int:
        """Bytes in use after the least recently used slabs have gone, if they had to."""
        if used and used + size <= self.limit_bytes:
            return used
        found = _listed(self.folder)
        used = _USED_BYTES + sum(stat.st_size for stat, path in found if path.name != _USED)
        if used + size <= self.limit_bytes:
            return used
        aim = self.limit_bytes - max(size, self.limit_bytes // _SPARE)
        for stat, path in sorted(found, key=lambda item: item[0].st_mtime_ns):
            if used > aim and (path.suffix == _SLAB or _is_abandoned(path)):
                path.unlink(missing_ok=True)
                used -= stat.st_size
        return used


def _listed(folder: Path) -> list[tuple[os.stat_result, Path]]:
    """Files of the folder that are still there; damaged ones may be removed meanwhile."""
    found = []
    for file in os.scandir(folder):
        with suppress(FileNotFoundError):
            found.append((file.stat(), Path(file.path)))
    return found


def _read_checked(path: Path, content: memoryview) -> bool:
    """Fills ``content`` from a file that has as many bytes and their checksum; False if not."""
    checksum = bytearray(_CHECKSUM_BYTES)
    with path.open("rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size != len(content) + _CHECKSUM_BYTES:
            return False
        read = os.preadv(stream.fileno(), [content, checksum], 0)
    return read == size and _checksum(content) == checksum


def _is_abandoned(path: Path) -> bool:
    """Whether it is an unfinished file whose writer has ended."""
    if path.suffix != _PART:
        return False
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


def _checksum(content: memoryview) -> bytes:
    """CRC-32C, little endian."""
    values = np.frombuffer(content, np.uint8)  # it takes no memoryview
    return int(google_crc32c.value(values)).to_bytes(_CHECKSUM_BYTES, "little")
