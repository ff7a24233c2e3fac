"""Ways to read slabs of a latent store, for ``slab_table.py``: one JSON object per line.

Runs in an environment of its own (requirements beside this file). A slab is one inner chunk of
4 MiB; slabs are read in the given random order, ``at_once`` in flight.

    {"do": "open", "folder": "...", "bucket": "...", "prefix": "...", "signed": {...}, ...}
        names of the ways, and versions
    {"do": "read", "way": "...", "at_once": 4, "check": false}
        seconds, CPU seconds of this process, bytes; with check, a digest of all slabs
"""

import asyncio
import http.client
import json
import os
import queue
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import obstore
import s3fs
import zarr
import zarrs  # noqa: F401  (registers its pipeline)
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from obstore.store import LocalStore as LocalObjects
from obstore.store import S3Store
from zarr.storage import FsspecStore, LocalStore, ObjectStore

PIPELINES = {
    "batched": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "fused": "zarr.core.codec_pipeline.FusedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}
PACKAGES = ("zarr", "zarrs", "obstore", "s3fs", "aiobotocore", "numpy")

Sink = Callable[[Any], None]
Slab = tuple[int, int]
"""Number of the shard, and of the inner chunk in it."""


@dataclass
class Setting:
    """What is read, and where it lies."""

    folder: str
    bucket: str
    prefix: str
    signed: dict[str, str]
    """Pre-signed address by number of the shard."""
    slabs: list[Slab]
    slab_bytes: int
    slab_rows: int
    slabs_per_shard: int
    opened: dict[str, Any] = field(default_factory=dict)

    def span(self, slab: Slab) -> tuple[int, int]:
        return slab[1] * self.slab_bytes, (slab[1] + 1) * self.slab_bytes

    def name(self, slab: Slab) -> str:
        return f"moments/c/{slab[0]}/0/0/0"

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, made once."""
        if key not in self.opened:
            self.opened[key] = make()
        return self.opened[key]


def in_threads(setting: Setting, at_once: int, read: Callable[[Slab], Any], sink: Sink) -> None:
    """Every thread takes the next slab until there is none."""
    waiting: queue.SimpleQueue[Slab] = queue.SimpleQueue()
    for slab in setting.slabs:
        waiting.put(slab)

    def drain() -> None:
        while True:
            try:
                slab = waiting.get_nowait()
            except queue.Empty:
                return
            sink(read(slab))

    with ThreadPoolExecutor(at_once) as threads:
        for done in [threads.submit(drain) for _ in range(at_once)]:
            done.result()


# plain reads


def preadv(setting: Setting, at_once: int, sink: Sink, *, new_buffers: bool) -> None:
    files = setting.once("files", dict)
    for shard, _ in setting.slabs:
        if shard not in files:
            files[shard] = os.open(f"{setting.folder}/{setting.name((shard, 0))}", os.O_RDONLY)
    local = threading.local()

    def read(slab: Slab) -> Any:
        if new_buffers or not hasattr(local, "buffer"):
            local.buffer = np.empty(setting.slab_bytes, np.uint8)
        start, stop = setting.span(slab)
        done = 0
        while start + done < stop:
            done += os.preadv(files[slab[0]], [memoryview(local.buffer)[done:]], start + done)
        return local.buffer

    in_threads(setting, at_once, read, sink)


def plain_http(setting: Setting, at_once: int, sink: Sink) -> None:
    """Pre-signed addresses, connections that stay open, one buffer per connection."""
    local = threading.local()

    def read(slab: Slab) -> Any:
        url = urlsplit(setting.signed[str(slab[0])])
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(url.netloc)
            local.buffer = memoryview(bytearray(setting.slab_bytes))
        start, stop = setting.span(slab)
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        local.connection.request("GET", f"{url.path}?{url.query}", headers=headers)
        answer = local.connection.getresponse()
        assert answer.status == 206, answer.status
        done = 0
        while done < setting.slab_bytes:
            done += answer.readinto(local.buffer[done:])
        answer.read()
        return local.buffer

    in_threads(setting, at_once, read, sink)


# clients of object stores


def s3fs_cat_ranges(setting: Setting, at_once: int, sink: Sink) -> None:
    filesystem = setting.once("s3fs", lambda: s3fs.S3FileSystem(use_listings_cache=False))
    for first in range(0, len(setting.slabs), at_once):
        slabs = setting.slabs[first : first + at_once]
        paths = [f"{setting.bucket}/{setting.prefix}/{setting.name(slab)}" for slab in slabs]
        starts, stops = zip(*map(setting.span, slabs), strict=True)
        for data in filesystem.cat_ranges(paths, list(starts), list(stops), on_error="raise"):
            sink(data)


def s3fs_cat_file(setting: Setting, at_once: int, sink: Sink) -> None:
    filesystem = setting.once("s3fs", lambda: s3fs.S3FileSystem(use_listings_cache=False))

    def read(slab: Slab) -> Any:
        start, stop = setting.span(slab)
        path = f"{setting.bucket}/{setting.prefix}/{setting.name(slab)}"
        return filesystem.cat_file(path, start=start, end=stop)

    in_threads(setting, at_once, read, sink)


def objects(setting: Setting, *, local: bool) -> Any:
    if local:
        return setting.once("local objects", lambda: LocalObjects(setting.folder))
    options = {"allow_http": True}
    return setting.once(
        "s3 objects",
        lambda: S3Store(setting.bucket, prefix=setting.prefix, client_options=options),
    )


def obstore_get_range(setting: Setting, at_once: int, sink: Sink, *, local: bool) -> None:
    store = objects(setting, local=local)

    def read(slab: Slab) -> Any:
        start, stop = setting.span(slab)
        return obstore.get_range(store, setting.name(slab), start=start, end=stop)

    in_threads(setting, at_once, read, sink)


def obstore_get_ranges(setting: Setting, at_once: int, sink: Sink, *, local: bool) -> None:
    """Ranges of one object in one call; the library fetches them in parallel."""
    store = objects(setting, local=local)
    by_shard: dict[int, list[Slab]] = {}
    for slab in setting.slabs:
        by_shard.setdefault(slab[0], []).append(slab)
    for slabs in by_shard.values():
        for first in range(0, len(slabs), at_once):
            part = slabs[first : first + at_once]
            starts, stops = zip(*map(setting.span, part), strict=True)
            name = setting.name(part[0])
            for data in obstore.get_ranges(store, name, starts=starts, ends=stops, coalesce=0):
                sink(data)


def obstore_async(setting: Setting, at_once: int, sink: Sink, *, local: bool) -> None:
    """One event loop, no threads of ours."""
    store = objects(setting, local=local)

    async def drain(waiting: "asyncio.Queue[Slab]") -> None:
        while not waiting.empty():
            slab = waiting.get_nowait()
            start, stop = setting.span(slab)
            sink(await obstore.get_range_async(store, setting.name(slab), start=start, end=stop))

    async def everything() -> None:
        waiting: asyncio.Queue[Slab] = asyncio.Queue()
        for slab in setting.slabs:
            waiting.put_nowait(slab)
        await asyncio.gather(*(drain(waiting) for _ in range(at_once)))

    asyncio.run(everything())


# zarr


def zarr_store(setting: Setting, kind: str) -> Any:
    path = f"{setting.bucket}/{setting.prefix}"
    if kind == "files":
        return LocalStore(setting.folder, read_only=True)
    if kind == "s3fs":
        filesystem = s3fs.S3FileSystem(asynchronous=True, use_listings_cache=False)
        return FsspecStore(filesystem, path=path, read_only=True)
    if kind == "s3fs in threads":
        filesystem = s3fs.S3FileSystem(use_listings_cache=False)
        wrapped = AsyncFileSystemWrapper(filesystem, asynchronous=True)
        return FsspecStore(wrapped, path=path, read_only=True)
    return ObjectStore(objects(setting, local=kind == "obstore files"), read_only=True)


def zarr_slices(setting: Setting, at_once: int, sink: Sink, *, kind: str, pipeline: str) -> None:
    zarr.config.set({"codec_pipeline.path": PIPELINES[pipeline], "codec_pipeline.strict": True})
    array = setting.once(
        f"zarr {kind} {pipeline}",
        lambda: zarr.open_group(zarr_store(setting, kind), mode="r", zarr_format=3)["moments"],
    )

    def read(slab: Slab) -> Any:
        first = (slab[0] * setting.slabs_per_shard + slab[1]) * setting.slab_rows
        return array[first : first + setting.slab_rows]

    in_threads(setting, at_once, read, sink)


def ways() -> dict[str, Callable[[Setting, int, Sink], None]]:
    """Every way by `place: name`; those of zarr for every pipeline that there is."""
    found: dict[str, Any] = {
        "local: preadv, buffer reused": partial(preadv, new_buffers=False),
        "local: preadv, new buffers": partial(preadv, new_buffers=True),
        "local: obstore get_range": partial(obstore_get_range, local=True),
        "s3: http.client, buffer reused": plain_http,
        "s3: s3fs cat_ranges": s3fs_cat_ranges,
        "s3: s3fs cat_file, threads": s3fs_cat_file,
        "s3: obstore get_range, threads": partial(obstore_get_range, local=False),
        "s3: obstore get_ranges": partial(obstore_get_ranges, local=False),
        "s3: obstore get_range_async": partial(obstore_async, local=False),
    }
    kinds = {"files": "local", "obstore files": "local", "s3fs": "s3", "s3fs in threads": "s3"}
    for kind, place in {**kinds, "obstore": "s3"}.items():
        for pipeline, path in PIPELINES.items():
            module, _, name = path.rpartition(".")
            if hasattr(sys.modules[module], name):
                label = f"{place}: zarr {zarr.__version__} {pipeline}, {kind}"
                found[label] = partial(zarr_slices, kind=kind, pipeline=pipeline)
    return found


def measured(setting: Setting, way: str, at_once: int, *, check: bool) -> dict[str, Any]:
    total, digest, lock = 0, 0, threading.Lock()

    def sink(data: Any) -> None:
        nonlocal total, digest
        view = memoryview(np.ascontiguousarray(data) if isinstance(data, np.ndarray) else data)
        with lock:
            total += view.nbytes
            if check:
                digest ^= zlib.crc32(view.cast("B"))

    started, cpu = time.perf_counter(), time.process_time()
    try:
        ways()[way](setting, at_once, sink)
    except Exception as error:  # told in the table: some pipelines cannot read some stores
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    answer = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    return {**answer, "bytes": total, "digest": digest}


def main() -> None:
    # libraries print to stdout; answers keep the real one to themselves
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    setting: Setting | None = None
    for line in sys.stdin:
        question = json.loads(line)
        if question.pop("do") == "open":
            setting = Setting(**question)
            answer: dict[str, Any] = {"ways": list(ways())}
            answer["versions"] = {name: metadata.version(name) for name in PACKAGES}
        else:
            assert setting is not None
            answer = measured(setting, **question)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
