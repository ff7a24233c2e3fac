"""Files below a local folder, with links followed once.

A link to a folder is read like a folder, under its own name; a folder that was read already is not
read again, so that a loop ends and nothing is found twice. Real folders come before links, so that
files have the names under which they lie. What cannot be read as a file (a link to nothing, a pipe,
a socket, a device, a folder without permission) is left out, and named.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from stat import S_ISREG


class NoFile(StrEnum):
    """Why something in a folder is no file."""

    READ_BEFORE = "a link to a folder that is read already"
    DEAD_END = "a link to nothing"
    SPECIAL = "a pipe, socket or device"
    FORBIDDEN = "not to be read without permission"


@dataclass(frozen=True)
class FoundFiles:
    """What lies below a folder; all paths are relative to it, with ``/``, and sorted."""

    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of every file that was asked for."""
    others: tuple[str, ...] = ()
    """Files with other endings."""
    left_out: dict[str, NoFile] = field(default_factory=dict)
    """What is no file, and why."""


def local_files(base: str, *, suffixes: tuple[str, ...], recursive: bool) -> FoundFiles:
    """What lies below the local folder ``base``.

    Args:
        base: A folder, or a link to one.
        suffixes: Endings of the names that are asked for, in lower case.
        recursive: Whether folders in it are read too.

    Raises:
        FileNotFoundError: There is no such folder.
        NotADirectoryError: It is no folder.
        PermissionError: It may not be read.
    """
    sizes: dict[str, int] = {}
    others: list[str] = []
    left_out: dict[str, NoFile] = {}
    for folder, entries in _folders(base, left_out, recursive=recursive):
        for entry in entries:
            name = str(folder / entry.name)
            try:
                status = entry.stat()
            except OSError as error:
                if entry.is_symlink():  # else it was removed at this moment
                    forbidden = isinstance(error, PermissionError)
                    left_out[name] = NoFile.FORBIDDEN if forbidden else NoFile.DEAD_END
                continue
            if not S_ISREG(status.st_mode):
                left_out[name] = NoFile.SPECIAL
            elif entry.name.lower().endswith(suffixes):
                sizes[name] = status.st_size
            else:
                others.append(name)
    return FoundFiles(
        dict(sorted(sizes.items())), tuple(sorted(others)), dict(sorted(left_out.items()))
    )


def _folders(
    base: str, left_out: dict[str, NoFile], *, recursive: bool
) -> Iterator[tuple[PurePosixPath, list[os.DirEntry[str]]]]:
    """Every folder once, real ones first, with what in it is no folder."""
    seen: set[str] = set()
    folders, links = [PurePosixPath()], list[PurePosixPath]()
    while folders or links:
        folder = folders.pop() if folders else links.pop()
        entries = _entries(base, folder, seen, left_out)
        below = [entry for entry in entries if recursive and _is_folder(entry)]
        folders += [folder / entry.name for entry in below if not entry.is_symlink()]
        links += [folder / entry.name for entry in below if entry.is_symlink()]
        links.sort(reverse=True)
        yield folder, [entry for entry in entries if not _is_folder(entry)]


def _entries(
    base: str, folder: PurePosixPath, seen: set[str], left_out: dict[str, NoFile]
) -> list[os.DirEntry[str]]:
    place = os.path.join(base, folder)
    real = os.path.realpath(place)
    if real in seen:
        left_out[str(folder)] = NoFile.READ_BEFORE
        return []
    seen.add(real)
    try:
        with os.scandir(place) as found:
            return sorted(found, key=lambda entry: entry.name, reverse=True)
    except PermissionError:
        if folder == PurePosixPath():
            raise
        left_out[str(folder)] = NoFile.FORBIDDEN
    except FileNotFoundError:  # it was removed at this moment
        if folder == PurePosixPath():
            raise
    return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or through what may not be read
        return False
