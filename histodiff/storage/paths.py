"""``StoragePath``: one path type for local folders and ``s3://``, and the operations on it.

``StoragePath`` is universal-pathlib's ``UPath``. Writes here are whole-object and atomic: a local
file is written beside its name and renamed, an object is put. S3 credentials and the endpoint come
from the standard AWS variables (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL`` ...), read by botocore.
Directory listings are never cached: progress is read from listings, by many processes.
"""

import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from upath import UPath

from histodiff.errors import ConfigError
from histodiff.storage.literal import LocalLocation
from histodiff.storage.local_files import FoundFiles, local_files
from histodiff.storage.refusals import error_code, one_line
from histodiff.storage.remote import http_files, is_http, told_apart
from histodiff.storage.s3 import LiteralS3

StoragePath: TypeAlias = UPath
"""A path or URL; see universal-pathlib."""

_READ_BYTES = 8 * 2**20
_S3_LIMITS = {
    "connect_timeout": 10,
    "read_timeout": 30,
    "retries": {"mode": "standard", "total_max_attempts": 4},
    "signature_version": "s3v4",
}
"""Seconds for a connection, and without a byte of an answer, and how often botocore tries; s3fs
repeats the whole five times, so a server that has stopped answering is given up after minutes."""

_IS_THERE = ("PreconditionFailed", "412")
_CONFLICT = ("ConditionalRequestConflict", "409")
_CONFLICT_PAUSES = (0.2, 0.6, 1.8)


def storage_path(url: str | os.PathLike[str]) -> StoragePath:
    """The path or URL as a ``StoragePath``; local paths become absolute.

    Raises:
        ConfigError: The URL's protocol is unknown, or its driver is not installed.
    """
    text = str(url)
    try:
        protocol, _ = fsspec.core.split_protocol(text)
        if protocol in (None, "file", "local"):
            return LocalLocation(Path(text.removeprefix("file://")).expanduser().absolute())
        fsspec.get_filesystem_class(protocol)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"{text}: cannot be opened ({error}); give a path or an s3:// URL"
        ) from error
    if protocol in ("s3", "s3a"):
        return StoragePath(text, use_listings_cache=False, config_kwargs=_S3_LIMITS)
    return StoragePath(text)


def is_local(path: StoragePath) -> bool:
    """Whether the path lies in the local file system."""
    return path.protocol in ("", "file", "local")


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
        data: bytes = path.read_bytes()
    return data


def write_bytes(path: StoragePath, data: bytes) -> None:
    """Puts a whole object: readers see the old bytes or the new ones, never a part."""
    if not is_local(path):
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


def list_names(folder: StoragePath) -> list[str]:
    """Sorted names of what lies directly in ``folder``; empty when there is no such folder."""
    try:
        with told_apart(folder):
            found = folder.fs.ls(folder.path, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = (str(item).rstrip("/").rsplit("/", 1)[-1] for item in found)
    return sorted(name for name in names if not name.endswith(".part"))


def file_sizes(
    folder: StoragePath, *, suffixes: tuple[str, ...] = ("",), recursive: bool = True
) -> dict[str, int]:
    """Size in bytes of every file below ``folder``, by its relative path, sorted.

    Args:
        folder: Where to look.
        suffixes: Endings of the names that count, in lower case; over HTTP others cost nothing.
        recursive: Whether folders and web pages in it are followed.
    """
    return found_files(folder, suffixes=suffixes, recursive=recursive).sizes


def found_files(
    folder: StoragePath, *, suffixes: tuple[str, ...] = ("",), recursive: bool = True
) -> FoundFiles:
    """What lies below ``folder``, with what else there is; nothing when there is no such folder.

    Links are followed once. Arguments are those of `file_sizes`.
    """
    if is_http(folder):
        return http_files(folder, suffixes=suffixes, recursive=recursive)
    try:
        with told_apart(folder):
            if is_local(folder):
                found = local_files(folder.path, suffixes=suffixes, recursive=recursive)
            else:
                found = _objects(folder, suffixes=suffixes, recursive=recursive)
    except (FileNotFoundError, NotADirectoryError):
        return FoundFiles()
    finished = {name: size for name, size in found.sizes.items() if not name.endswith(".part")}
    return replace(found, sizes=finished)


def _objects(folder: StoragePath, *, suffixes: tuple[str, ...], recursive: bool) -> FoundFiles:
    base = folder.path.rstrip("/")
    listed = folder.fs.find(base, detail=True)
    below = {name[len(base) :].lstrip("/"): details for name, details in listed.items()}
    names = {name: details for name, details in below.items() if recursive or "/" not in name}
    wanted = {name for name in names if name.lower().endswith(suffixes)}
    return FoundFiles(
        {name: int(names[name]["size"]) for name in sorted(wanted)},
        tuple(sorted(names.keys() - wanted)),
    )


def remove_tree(folder: StoragePath) -> None:
    """Removes ``folder`` and everything below it; nothing happens when there is none.

    Names are literal: what is removed is the folder of exactly this name, and the objects whose
    keys begin with exactly it and ``/``.
    """
    if is_local(folder):
        target = Path(folder.path)
        if target.is_symlink() or target.is_file():
            target.unlink()
        else:
            with suppress(FileNotFoundError):
                shutil.rmtree(target)
        return
    with told_apart(folder):
        if isinstance(folder.fs, LiteralS3):
            folder.fs.remove_below(folder.path)
            return
        for name in folder.fs.find(folder.path):
            folder.fs.rm_file(name)


def remove_file(path: StoragePath) -> None:
    """Removes the object of exactly this name; nothing happens when there is none."""
    if is_local(path):
        Path(path.path).unlink(missing_ok=True)
        return
    with told_apart(path), suppress(FileNotFoundError):
        path.fs.rm_file(path.path)


def sha256_of(path: StoragePath) -> str:
    """SHA-256 of the object's bytes, read in blocks."""
    digest = hashlib.sha256()
    with told_apart(path), path.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def local_copy(path: StoragePath) -> Iterator[Path]:
    """A local path with the content of ``path`` (file or folder): itself, or a temporary copy."""
    if is_local(path):
        yield Path(path.path)
        return
    with tempfile.TemporaryDirectory(prefix="histodiff-") as scratch:
        local = Path(scratch) / path.name
        with told_apart(path):
            if is_http(path) or not path.fs.isdir(path.path):
                path.fs.get_file(path.path, str(local))
            else:
                _fetch_tree(path, local)
        yield local


def _fetch_tree(folder: StoragePath, local: Path) -> None:
    local.mkdir()
    for name in file_sizes(folder):
        target = local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.fs.get_file((folder / name).path, str(target))


def upload_tree(source: Path, target: StoragePath) -> None:
    """Copies every file below the local folder ``source`` to ``target``, replacing files."""
    for file in sorted(source.rglob("*")):
        if file.is_file():
            write_bytes(target / file.relative_to(source).as_posix(), file.read_bytes())


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
