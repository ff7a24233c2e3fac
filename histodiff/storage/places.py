"""From text to a ``StoragePath``: which places there are, and which text is refused.

A place that is read may have any name. A *root*, where artifacts are written, is held to more: what
looks like another kind of place, or would not be found again, must not become a folder by mistake.
S3 credentials and the endpoint come from AWS's own variables, read by botocore.
"""

import os
import re
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, urlsplit

from upath import UPath

from histodiff.credentials import refuse_secret
from histodiff.errors import ConfigError
from histodiff.storage.literal import LocalLocation

StoragePath: TypeAlias = UPath
"""A path or URL; see universal-pathlib."""

_S3_LIMITS = {
    "connect_timeout": 10,
    "read_timeout": 30,
    "retries": {"mode": "standard", "total_max_attempts": 4},
    "signature_version": "s3v4",
}
"""Seconds for a connection, and without a byte of an answer, and how often botocore tries; s3fs
repeats the whole five times, so a server that has stopped answering is given up after minutes."""

S3, LOCAL, WEB = ("s3", "s3a"), ("", "file", "local"), ("http", "https")
_IN_MEMORY = "memory"
_URL = re.compile(r"([^/\\]*?)://(.*)", re.DOTALL)
_ONE_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)|(?:s3a?|file|https?):", re.IGNORECASE)
_WINDOWS = re.compile(r"\\\\|[A-Za-z]:[\\/]")
_FIX = "give a path or an s3:// URL"


def storage_path(url: str | os.PathLike[str]) -> StoragePath:
    """The path or URL as a ``StoragePath``; local paths become absolute.

    Raises:
        ConfigError: There is no such kind of place, or the URL has a password in it.
    """
    text = str(url)
    refuse_secret(text)
    if "\0" in text or text.startswith("\\\\"):
        raise ConfigError(f"{text!r}: is no place here; {_FIX}")
    found = _URL.match(text)
    if found is None:
        return _local(text)
    protocol, rest = found[1], found[2]
    if protocol in LOCAL[1:]:
        if not rest.startswith("/"):
            raise ConfigError(f"{text}: names a computer, and files are read here; {_FIX}")
        return _local(rest)
    if protocol in S3:
        return StoragePath(text, use_listings_cache=False, config_kwargs=_S3_LIMITS)
    if protocol in (*WEB, _IN_MEMORY):
        return StoragePath(text)
    raise ConfigError(f"{text}: there are no places of kind '{protocol}://'; {_FIX}")


def root_path(text: str) -> StoragePath:
    """The root of artifacts that a site names.

    Raises:
        ConfigError: Nothing would be kept there, or it reads like something that it is not.
    """
    problem = _no_root(text)
    if problem:
        raise ConfigError(f"root {text!r}: {problem}")
    return storage_path(text)


def below(folder: StoragePath, name: str) -> StoragePath:
    """The file of exactly this relative name in a folder; in a web address it is quoted."""
    return folder / (quote(name) if folder.protocol in WEB else name)


def is_local(path: StoragePath) -> bool:
    """Whether the path lies in the local file system."""
    return path.protocol in LOCAL


def is_s3(path: StoragePath) -> bool:
    """Whether the path lies on S3."""
    return path.protocol in S3


def _local(text: str) -> StoragePath:
    return LocalLocation(Path(text).expanduser().absolute())


def _no_root(text: str) -> str | None:
    """What is wrong with the text as a root, with the fix; None for nothing."""
    if not text.strip() or text != text.strip():
        return f"is empty, or has blanks at an end; {_FIX}"
    if not text.isprintable():
        return f"has characters that are not printable; {_FIX}"
    if _WINDOWS.match(text):
        return f"is a path of Windows; {_FIX} of this machine"
    found = _URL.match(text)
    if found is None:
        typed = f"looks like a URL; {_FIX}, or write a folder of that name as ./{text}"
        return typed if _ONE_SLASH.match(text) else None
    if found[1] == _IN_MEMORY:
        return f"keeps nothing when the command ends; {_FIX}"
    if found[1] in S3:
        return _no_prefix(found[2])
    if found[1] in WEB and not urlsplit(text).hostname:
        return f"names no server; {_FIX}"
    return None


def _no_prefix(rest: str) -> str | None:
    bucket, *names = rest.removesuffix("/").split("/")
    if not bucket:
        return "names no bucket; write s3://bucket/prefix"
    if any(name in ("", ".", "..") for name in names):
        return "has an empty part, '.' or '..' in it, which S3 takes for names; take them out"
    return None
