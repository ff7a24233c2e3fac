"""The S3 part of ``bench loader``: raw ranged GETs of the slabs, with their bytes dropped.

The store is uploaded below the given address, where it is not there yet. Every client that is
installed is tried with several numbers of requests in flight, and makes its passes with the best;
the fastest over all passes is the limit.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from histodiff.errors import ArtifactNotFound, ConfigError
from histodiff.latents import LatentStore
from histodiff.latents.layout import shard_name
from histodiff.runtime import generator_for
from histodiff.storage import StoragePath, storage_path, upload_tree
from histodiff.storage.limits import ByteRange, raw_clients
from histodiff.workflows.bench.passes import Pass

_AT_ONCE = (2, 4, 8, 16)
_TRIAL_SHARE = 4


@dataclass(frozen=True)
class RawGets:
    """A client with the number of requests in flight that suits it best."""

    client: str
    at_once: int
    bytes_per_s: dict[int, float]
    """By requests in flight, on a quarter of the store."""
    ranges: Sequence[ByteRange]
    rows: int

    def read(self) -> Pass:
        """A pass over all slabs."""
        started = time.perf_counter()
        fetched = raw_clients()[self.client](self.ranges, at_once=self.at_once)
        assert fetched == sum(item.stop - item.start for item in self.ranges)
        seconds = time.perf_counter() - started
        return Pass(seconds, self.rows, 0.0)


def s3_folder(url: str) -> StoragePath:
    """The folder at ``url``.

    Raises:
        ConfigError: It is no address on S3.
    """
    folder = storage_path(url)
    if folder.protocol not in ("s3", "s3a"):
        raise ConfigError(f"s3={url}: is not on S3; give s3://bucket/prefix")
    return folder


def uploaded(store: LatentStore, folder: StoragePath) -> LatentStore:
    """The store in ``folder``, uploaded where it is not there yet."""
    target = folder / store.path.name
    try:
        return LatentStore.open(target)
    except ArtifactNotFound:
        _make_bucket(target)
        upload_tree(Path(store.path.path), target)
    return LatentStore.open(target)


def raw_gets(store: LatentStore) -> list[RawGets]:
    """Every client, as fast as it gets the store's slabs, found by trying."""
    ranges = slab_ranges(store)
    some = ranges[: max(1, len(ranges) // _TRIAL_SHARE)]
    found = []
    for client, fetch in raw_clients().items():
        rates = {at_once: _bytes_per_s(fetch, some, at_once) for at_once in _AT_ONCE}
        best = max(rates, key=lambda at_once: rates[at_once])
        found.append(RawGets(client, best, rates, ranges, store.num_rows))
    return found


def slab_ranges(store: LatentStore) -> list[ByteRange]:
    """Every inner chunk of the store, in a random order."""
    layout = store.layout
    size = layout.rows_per_chunk * layout.row_bytes
    ranges = [
        ByteRange(store.path / shard_name(shard), chunk * size, (chunk + 1) * size)
        for shard in range(layout.num_shards)
        for chunk in range(layout.num_chunks(shard))
    ]
    order = generator_for(0, "bench loader", "ranges").permutation(len(ranges))
    return [ranges[number] for number in order]


def _bytes_per_s(fetch: Callable[..., int], ranges: Sequence[ByteRange], at_once: int) -> float:
    started = time.perf_counter()
    fetched = fetch(ranges, at_once=at_once)
    return fetched / (time.perf_counter() - started)


def _make_bucket(target: StoragePath) -> None:
    bucket = target.path.split("/", 1)[0]
    if not target.fs.exists(bucket):
        target.fs.mkdir(bucket)
