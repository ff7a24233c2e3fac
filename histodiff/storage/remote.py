"""Sizes, ranges and copies of files that may be remote, with failures told apart.

What is not there is a FileNotFoundError, what may not be read a PermissionError; a connection that
breaks, a server that is overloaded or gone is a TransientError. File systems mix these up: over
HTTP everything that fails is "not found", and of several ranges failures come as results. s3fs
repeats what fails; over HTTP it is repeated here.
"""

import io
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

import aiohttp
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.exceptions import HTTPClientError, IncompleteReadError
from botocore.parsers import ResponseParserError
from fsspec.caching import BlockCache
from upath import UPath

from histodiff.errors import AccessRefused, ConfigError, HistodiffError, TransientError
from histodiff.storage.local_files import FoundFiles, NoFile
from histodiff.storage.refusals import error_code, one_line, unreachable
from histodiff.storage.versions import FileFacts, cut_short

_AS_THEY_ARE = (
    FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError,
)  # fmt: skip
_BROKEN = (
    aiohttp.ClientError, OSError, HTTPClientError, BotoConnectionError, IncompleteReadError,
    ResponseParserError,
)  # fmt: skip
_MISSING_STATUS = (404, 410)
_REFUSED_STATUS = (401, 403)
_BEYOND_END_STATUS = 416
_BEYOND_END_CODES = ("InvalidRange", "416")
_BUSY_STATUS = 429
_PAUSES = (0.2, 0.6)
"""Seconds before the second and third try over HTTP."""
_AT_ONCE = 16
MAX_DEPTH, MAX_PAGES, MAX_FILES = 32, 20_000, 5_000_000
"""Of folders in folders, of pages, and of files that pages of a web server link to."""


def is_http(path: UPath) -> bool:
    """Whether the path is a web address; its server knows no folders, only pages with links."""
    return path.protocol in ("http", "https")


@contextmanager
def told_apart(path: UPath) -> Iterator[None]:
    """Gives failures of the block to read or write ``path`` their own exceptions.

    Raises:
        FileNotFoundError: It is not there.
        PermissionError: It may not be read, or not be written.
        TransientError: The connection broke, the server is overloaded, or the answer was cut short.
    """
    try:
        yield
    except HistodiffError:
        raise
    except _BROKEN as error:
        meaning = _meaning(path, error)
        if meaning is error:
            raise
        raise meaning from error


def file_size(path: UPath) -> int:
    """Bytes of a file; errors as of `told_apart`."""
    return file_facts(path).size


def file_facts(path: UPath) -> FileFacts:
    """Size and version of a file; errors as of `told_apart`."""
    with told_apart(path):
        found = path.fs.info(path.path)
    if found.get("size") is None:
        raise PermissionError(f"{path}: the server does not say how large it is")
    return FileFacts(int(found["size"]), str(found.get("version") or found.get("ETag") or ""))


def read_ranges(
    path: UPath, ranges: Sequence[tuple[int, int]], *, version: str = ""
) -> list[bytes]:
    """Bytes at every ``(offset, size)``; shorter where the file ends. Requests run together.

    Raises:
        FileChanged: It has another version than ``version``, as `file_facts` gave it.
        FileNotFoundError: It is not there.
        PermissionError: It may not be read, or the server gives whole files alone.
        TransientError: The connection broke.
    """
    found: dict[int, bytes] = {}
    for pause in (*_PAUSES, None) if is_http(path) else (None,):
        missing = [number for number in range(len(ranges)) if number not in found]
        try:
            wanted = {number: ranges[number] for number in missing}
            found |= _fetched(path, wanted, version)
        except TransientError:
            if pause is None:
                raise
            time.sleep(pause)
        else:
            break
    for number, (_, size) in enumerate(ranges):
        if len(found[number]) > size:
            raise PermissionError(
                f"{path}: the server gives whole files instead of ranges; use one that knows"
                " `Range` (nginx, Apache, S3), or copy the files"
            )
    return [found[number] for number in range(len(ranges))]


def _fetched(path: UPath, ranges: dict[int, tuple[int, int]], version: str) -> dict[int, bytes]:
    held = {"version": version} if version else {}
    results = path.fs.cat_ranges(
        [path.path] * len(ranges),
        [offset for offset, _ in ranges.values()],
        [offset + size for offset, size in ranges.values()],
        on_error="return",
        **held,
    )
    found = {}
    for number, result in zip(ranges, results, strict=True):
        if isinstance(result, Exception) and not _is_beyond_end(result):
            with told_apart(path):
                raise result
        found[number] = b"" if isinstance(result, Exception) else bytes(result)
    return found


def open_blockwise(path: UPath, *, block_bytes: int, facts: FileFacts) -> BinaryIO:
    """A remote file for reading here and there: whole blocks are fetched, and a few are kept.

    Errors of reading are those of `read_ranges`, and FileChanged where a block is short.
    """
    return cast(BinaryIO, io.BufferedReader(_Blocks(path, block_bytes, facts), block_bytes))


class _Blocks(io.RawIOBase):
    """What `open_blockwise` reads from."""

    def __init__(self, path: UPath, block_bytes: int, facts: FileFacts) -> None:
        self._path, self._facts, self._place = path, facts, 0
        self.name = str(path.name)  # as files have, and libraries ask for
        self._cache = BlockCache(block_bytes, self._fetch, facts.size)

    def _fetch(self, start: int, end: int) -> bytes:
        size = min(end, self._facts.size) - start
        (data,) = read_ranges(self._path, [(start, size)], version=self._facts.version)
        if len(data) != size:
            raise cut_short(str(self._path), size, len(data))
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._facts.size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        end = min(self._place + len(buffer), self._facts.size)
        data = self._cache._fetch(self._place, end) if end > self._place else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def http_files(folder: UPath, *, suffixes: tuple[str, ...], recursive: bool) -> FoundFiles:
    """What the pages below ``folder`` link to; only files with these endings are asked for.

    Raises:
        ConfigError: The pages have no end.
    """
    base = str(folder).rstrip("/") + "/"
    with told_apart(folder):
        found = _linked(folder, base, recursive=recursive)
    links = {unquote(link.removeprefix(base)): link for link in found}
    names = sorted(name for name in links if name.lower().endswith(suffixes))
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        sizes = list(threads.map(_linked_size, (UPath(links[name]) for name in names)))
    known = dict(zip(names, sizes, strict=True))
    return FoundFiles(
        {name: size for name, size in known.items() if size is not None},
        tuple(sorted(links.keys() - known.keys())),
        {name: NoFile.DEAD_END for name, size in known.items() if size is None},
    )


def _linked(folder: UPath, base: str, *, recursive: bool) -> set[str]:
    """Files that the page ``base`` links to, and the pages that it links to, deepest first."""
    files: set[str] = set()
    waiting, seen = [(base, 0)], {base}
    while waiting:
        page, depth = waiting.pop()
        links = folder.fs.ls(page, detail=False)
        files.update(link for link in links if not link.endswith("/"))
        if not recursive:
            break
        pages = {link for link in links if link.endswith("/")} - seen
        waiting += [(link, depth + 1) for link in sorted(pages, reverse=True)]
        seen |= pages
        if depth >= MAX_DEPTH or len(seen) > MAX_PAGES or len(files) > MAX_FILES:
            raise ConfigError(
                f"{folder}: its pages link on without end ({len(seen):,} pages, {depth} deep, the"
                f" last {page[len(base) :][:80]}); check for a folder that links to itself, or"
                " give a folder below it"
            )
    return files


def _linked_size(path: UPath) -> int | None:
    """Bytes of a file that a page links to, None where the link leads to nothing."""
    try:
        return file_size(path)
    except FileNotFoundError:
        return None


def _is_beyond_end(error: Exception) -> bool:
    """Whether a range was refused because the file ends before it."""
    status = getattr(error, "status", None)
    return status == _BEYOND_END_STATUS or error_code(error) in _BEYOND_END_CODES


def _meaning(path: UPath, error: Exception) -> Exception:
    """The exception that says what has happened."""
    cause = error.__cause__
    if isinstance(cause, HistodiffError):
        return cause
    if is_http(path) and isinstance(error, FileNotFoundError) and isinstance(cause, _BROKEN):
        return _meaning(path, cause)  # fsspec: whatever fails over HTTP is "not found"
    if isinstance(error, _AS_THEY_ARE):
        return error
    reason = one_line(error)
    status = error.status if isinstance(error, aiohttp.ClientResponseError) else None
    if status in _MISSING_STATUS:
        return FileNotFoundError(f"{path}: {reason}")
    if status in _REFUSED_STATUS:
        return AccessRefused(
            f"{path}: the server refuses it (status {status}); give the login of its"
            " machine in ~/.netrc, or ask for access"
        )
    if status is not None and status < 500 and status != _BUSY_STATUS:
        return PermissionError(f"{path}: {reason}")
    if isinstance(error, (HTTPClientError, BotoConnectionError)):
        return unreachable(str(path), error)
    return TransientError(f"{path}: {reason}")
