"""The limit of an object store: ranges fetched in parallel, and the bytes dropped.

The baseline of benches. ``http`` asks through pre-signed addresses and standard sockets into one
buffer per connection, which costs about as little as Python can; ``s3fs`` is the file system of
`storage_path`; ``obstore`` takes part where it is installed.
"""

import http.client
import importlib
import importlib.util
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from upath import UPath

from histodiff.errors import TransientError

_SIGNED_SECONDS = 24 * 3600
_PARTIAL = 206


@dataclass(frozen=True)
class ByteRange:
    """Bytes ``start`` to ``stop`` of an object on S3."""

    path: UPath
    start: int
    stop: int


Waiting = queue.SimpleQueue[ByteRange]


def fetched_with_http(ranges: Sequence[ByteRange], *, at_once: int) -> int:
    """Bytes fetched through ``at_once`` connections that stay open.

    Raises:
        TransientError: The server answers with something else than the range.
    """
    signed = {str(path): path.fs.sign(path.path, _SIGNED_SECONDS) for path in _paths(ranges)}
    largest = max(item.stop - item.start for item in ranges)

    def drain(waiting: Waiting) -> int:
        total, buffer = 0, memoryview(bytearray(largest))
        server = urlsplit(next(iter(signed.values())))
        secure = server.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        with closing(kind(server.netloc)) as connection, suppress(queue.Empty):
            while True:
                item = waiting.get_nowait()
                total += _get(connection, signed[str(item.path)], item, buffer)
        return total

    return _shared_out(ranges, drain, at_once)


def fetched_with_s3fs(ranges: Sequence[ByteRange], *, at_once: int) -> int:
    """Bytes fetched by the path's own file system, ``at_once`` ranges in flight."""
    total, group = 0, 4 * at_once  # results are kept until a group is complete
    for first in range(0, len(ranges), group):
        part = ranges[first : first + group]
        results = part[0].path.fs.cat_ranges(
            [item.path.path for item in part],
            [item.start for item in part],
            [item.stop for item in part],
            batch_size=at_once,
            on_error="raise",
        )
        total += sum(len(result) for result in results)
    return total


def fetched_with_obstore(ranges: Sequence[ByteRange], *, at_once: int) -> int:
    """Bytes fetched by obstore from ``at_once`` threads."""
    obstore = importlib.import_module("obstore")
    stores = importlib.import_module("obstore.store")
    buckets = {path.path.split("/", 1)[0] for path in _paths(ranges)}
    options = {"allow_http": True}
    opened = {name: stores.S3Store(name, client_options=options) for name in buckets}

    def drain(waiting: Waiting) -> int:
        total = 0
        with suppress(queue.Empty):
            while True:
                item = waiting.get_nowait()
                bucket, key = item.path.path.split("/", 1)
                data = obstore.get_range(opened[bucket], key, start=item.start, end=item.stop)
                total += len(data)
        return total

    return _shared_out(ranges, drain, at_once)


def raw_clients() -> dict[str, Callable[..., int]]:
    """Clients that are installed, by name; each takes ranges and ``at_once``, and gives bytes."""
    clients: dict[str, Callable[..., int]] = {
        "http": fetched_with_http,
        "s3fs": fetched_with_s3fs,
    }
    if importlib.util.find_spec("obstore"):
        clients["obstore"] = fetched_with_obstore
    return clients


def _paths(ranges: Sequence[ByteRange]) -> list[UPath]:
    return list({str(item.path): item.path for item in ranges}.values())


def _shared_out(ranges: Sequence[ByteRange], drain: Callable[[Waiting], int], at_once: int) -> int:
    """Sum over threads that each take from what waits until nothing does."""
    waiting: Waiting = queue.SimpleQueue()
    for item in ranges:
        waiting.put(item)
    with ThreadPoolExecutor(at_once) as threads:
        return sum(
            done.result() for done in [threads.submit(drain, waiting) for _ in range(at_once)]
        )


def _get(
    connection: http.client.HTTPConnection, address: str, item: ByteRange, buffer: memoryview
) -> int:
    url = urlsplit(address)
    headers = {"Range": f"bytes={item.start}-{item.stop - 1}"}
    connection.request("GET", f"{url.path}?{url.query}", headers=headers)
    answer = connection.getresponse()
    size = item.stop - item.start
    if answer.status != _PARTIAL or answer.length != size:
        raise TransientError(f"{item.path}: {answer.status} {answer.reason} for a range")
    done = 0
    while done < size:
        done += answer.readinto(buffer[done:size])
    answer.read()
    return done
