"""Whole files and folders from storage to this machine and back, and digests of files."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histodiff.errors import ConfigError
from histodiff.storage.listing import file_sizes
from histodiff.storage.paths import write_bytes
from histodiff.storage.places import StoragePath, is_local, is_s3
from histodiff.storage.remote import file_facts, is_http, read_ranges, told_apart
from histodiff.storage.versions import FileFacts, cut_short

_READ_BYTES = 32 * 2**20


def sha256_of(path: StoragePath, *, facts: FileFacts | None = None) -> str:
    """SHA-256 of the object's bytes, read in blocks; all of one version.

    Args:
        path: The object.
        facts: Size and version that a remote one is held to; by default those of this moment.

    Raises:
        FileChanged: It has changed meanwhile, or has fewer bytes than the server has announced.
    """
    digest = _Digest()
    if is_local(path):
        with open(path.path, "rb") as stream:
            shutil.copyfileobj(stream, digest, _READ_BYTES)
        return digest.hex
    facts = facts or file_facts(path)
    if is_http(path):
        with told_apart(path):
            path.fs.get_file(path.path, digest, size=facts.size, version=facts.version)
        return digest.hex
    for start in range(0, facts.size, _READ_BYTES):
        wanted = min(_READ_BYTES, facts.size - start)
        (block,) = read_ranges(path, [(start, wanted)], version=facts.version)
        if len(block) != wanted:
            raise cut_short(str(path), wanted, len(block))
        digest.write(block)
    return digest.hex


class _Digest:
    """SHA-256 of what is written to it."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    @property
    def hex(self) -> str:
        return self._digest.hexdigest()

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return len(data)

    def read(self) -> bytes:
        """Nothing; fsspec knows streams by their ``read``, ``close`` and ``tell``."""
        return b""

    def close(self) -> None:
        """Nothing."""

    def tell(self) -> int:
        """Nothing is kept."""
        return 0


@contextmanager
def local_copy(path: StoragePath, *, facts: FileFacts | None = None) -> Iterator[Path]:
    """A local path with the content of ``path`` (file or folder): itself, or a temporary copy.

    Args:
        path: What is copied if it is not local.
        facts: Size and version that a file is held to; by default those of this moment.

    Raises:
        ConfigError: There is no room for a copy.
        FileChanged: The file has changed meanwhile, or is shorter than announced.
    """
    if is_local(path):
        yield Path(path.path)
        return
    with tempfile.TemporaryDirectory(prefix="histodiff-") as scratch:
        local = Path(scratch) / "copy" / path.name
        local.parent.mkdir()
        with told_apart(path):
            folder = not (facts or is_http(path)) and path.fs.isdir(path.path)
        if folder:
            for name, size in file_sizes(path).items():
                _fetch(path / name, local / name, FileFacts(size))
        else:
            _fetch(path, local, facts or file_facts(path))
        yield local


def _fetch(path: StoragePath, local: Path, facts: FileFacts) -> None:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if facts.size > free:
        raise ConfigError(
            f"{path}: has {facts.size:,} bytes, and {tempfile.gettempdir()} has room for {free:,};"
            " set TMPDIR to a folder with more room, or check the server"
        )
    local.parent.mkdir(parents=True, exist_ok=True)
    held = {"size": facts.size, "version": facts.version} if is_http(path) or is_s3(path) else {}
    with told_apart(path):
        path.fs.get_file(path.path, str(local), **held)


def upload_tree(source: Path, target: StoragePath) -> None:
    """Copies every file below the local folder ``source`` to ``target``, replacing files."""
    for file in sorted(source.rglob("*")):
        if file.is_file():
            write_bytes(target / file.relative_to(source).as_posix(), file.read_bytes())
