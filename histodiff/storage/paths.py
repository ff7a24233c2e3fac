"""Whole objects at a ``StoragePath``: read, put, put if absent.

Writes here are whole-object and atomic: a local file is written beside its name and renamed, an
object is put.
"""

import os
import time
import uuid
from datetime import datetime
from pathlib import Path

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

from histodiff.errors import ConfigError
from histodiff.storage.places import StoragePath, is_local
from histodiff.storage.refusals import error_code, one_line
from histodiff.storage.remote import is_http, told_apart
from histodiff.storage.removal import remove_file

_IS_THERE = ("PreconditionFailed", "412")
_CONFLICT = ("ConditionalRequestConflict", "409")
_CONFLICT_PAUSES = (0.2, 0.6, 1.8)


def async_filesystem(path: StoragePath) -> AsyncFileSystem:
    """The path's file system for libraries that call from an event loop of their own.

    It shares connections and settings with ``path.fs``; every call runs in a thread.
    """
    return AsyncFileSystemWrapper(path.fs, asynchronous=True)


def read_bytes(path: StoragePath) -> bytes:
    """The whole object; of remote ones errors are those of `told_apart`."""
    if is_local(path):
        return Path(path.path).read_bytes()
    with told_apart(path):
        data: bytes = path.fs.cat_file(path.path)
    return data


def write_bytes(path: StoragePath, data: bytes) -> None:
    """Puts a whole object: readers see the old bytes or the new ones, never a part."""
    if not is_local(path):
        _refuse_web(path)
        with told_apart(path):
            path.fs.pipe_file(path.path, data)
        return
    target = Path(path.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with scratch.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def create_bytes(path: StoragePath, data: bytes) -> bool:
    """Puts an object only where none is (atomically): True if this call created it.

    Who must know from a writer of the very same bytes puts an id of its own into them: on S3 a put
    whose answer was lost is repeated, and then finds the object that it has made itself.
    """
    if not is_local(path):
        _refuse_web(path)
        with told_apart(path):
            return _created(path, data)
    target = Path(path.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        scratch.write_bytes(data)
        os.link(scratch, target)  # fails if the target exists, and the target is never partial
    except FileExistsError:
        return False
    finally:
        scratch.unlink(missing_ok=True)
    return True


def _refuse_web(path: StoragePath) -> None:
    if is_http(path):
        raise ConfigError(
            f"{path}: nothing is written to a web address; set `root` of the site to a folder or an"
            " s3:// URL"
        )


def _created(path: StoragePath, data: bytes) -> bool:
    for pause in (*_CONFLICT_PAUSES, None):
        try:
            path.fs.pipe_file(path.path, data, mode="create")
        except OSError as error:
            code = error_code(error)
            if isinstance(error, FileExistsError) or code in _IS_THERE:
                return bool(path.fs.cat_file(path.path) == data)
            if code not in _CONFLICT or pause is None:
                raise
            time.sleep(pause)  # somebody puts it at this moment, and may yet fail
        else:
            return True
    raise AssertionError("the last try returns or raises")


def modified_at(path: StoragePath) -> datetime:
    """When the object was last put, by the clock of the storage.

    Raises:
        FileNotFoundError: It is not there.
    """
    with told_apart(path):
        found: datetime = path.fs.modified(path.path)
    return found


def check_writable(root: StoragePath) -> None:
    """Writes and removes a probe.

    Raises:
        ConfigError: The root cannot be written; nothing has been computed yet.
    """
    probe = root / f".histodiff-probe-{uuid.uuid4().hex}"
    try:
        write_bytes(probe, b"")
        remove_file(probe)
    except Exception as error:
        reason = one_line(error).replace(str(probe), str(root))
        raise ConfigError(
            f"root {root}: cannot be written ({reason}); set `root` of the site to a folder or"
            " bucket that you may write"
        ) from error
