"""What a remote file is: its size and its version, which is pinned for as long as it is read.

The version is what the server says of the content: its ETag, else the date of its last change.
Where it says neither, the size alone is held. Who has pinned a version gets bytes of that version,
or `FileChanged`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from histodiff.errors import ConfigError, FileChanged

MAX_OBJECT_BYTES = 8 * 2**30
"""Largest object that is read into memory whole; a server that announces more is not believed."""


@dataclass(frozen=True)
class FileFacts:
    """What a server says of a file."""

    size: int
    """Bytes."""
    version: str = ""
    """ETag, or date of the last change; empty where the server says neither."""


_PINNED: ContextVar[str] = ContextVar("pinned", default="")


@contextmanager
def pinned(version: str) -> Iterator[None]:
    """Requests of the block are held to this version."""
    token = _PINNED.set(version)
    try:
        yield
    finally:
        _PINNED.reset(token)


def pinned_version() -> str:
    """The version that requests are held to; empty for none."""
    return _PINNED.get()


def changed(place: str, wanted: str, found: str) -> FileChanged:
    """The error for a file of which another version is there now."""
    now = f"now {found}" if found else "now another"
    return FileChanged(
        f"{place}: has changed while it was read (its version was {wanted}, {now}); run the same"
        " command again when nobody writes it, or read from a copy"
    )


def cut_short(place: str, wanted: int, found: int) -> FileChanged:
    """The error for an answer with fewer bytes than the server has announced."""
    return FileChanged(
        f"{place}: the server gives {found:,} bytes where it has announced {wanted:,}; check the"
        " server, or read from a copy"
    )


def too_large(place: str, size: int, limit: int) -> ConfigError:
    """The error for an object that is larger than anything that is read whole."""
    return ConfigError(
        f"{place}: the server announces {size:,} bytes, and no more than {limit:,} are read at"
        " once; check the server, or the address"
    )
