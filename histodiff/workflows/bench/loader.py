"""``bench loader``: rows per second of the reader beside a memory copy, and beside its peers.

131,072 rows of 32x32x8 fp16 (16 KiB a row, 2 GiB) in shards of 4,096, read by the epoch in batches
of 256, warm, at the shuffle settings that training uses. The ways take turns, so that noise of the
machine falls on all alike; medians count. Every reader first makes a pass that is not timed: it
fills caches, and its digest shows that every consumer gets the same rows.

Peers (``peers=PYTHON``) run in an environment of their own; ``s3=URL`` needs a server. From S3 the
second epoch counts, which is as all that follow; the first, with its start, is told beside it.
"""

import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import provenance
from histodiff.errors import ConfigError
from histodiff.latents import LatentBatch, LatentMixture, LatentStore
from histodiff.latents.mixture import DEFAULT_SETTINGS
from histodiff.latents.shuffle_quality import distinct_slides
from histodiff.runtime import generator_for
from histodiff.storage import StoragePath, storage_path
from histodiff.workflows.bench.latents import MIXING, SPLIT, SUPERTILE, BenchSize, bench_store
from histodiff.workflows.bench.loader_draws import draw_rates
from histodiff.workflows.bench.loader_s3 import raw_gets, s3_folder, uploaded
from histodiff.workflows.bench.passes import (
    Pass,
    Passes,
    Way,
    interleaved,
    median_rate,
    ratio,
    timed,
)
from histodiff.workflows.bench.peers import PeerProcess, peer_process

ROWS, ROWS_PER_SHARD, BATCH, NUM_LANES, ROUNDS = 131_072, 4_096, 256, 8, 5
PEERS_SCRIPT = "tests/benchmarks/peers/loader_peers.py"
_PEER_READERS = ("streaming", "hdf5")  # "hdf5_random" reads a part of the rows
_RAW = "s3_raw_get_"
_COPIED_ROWS = 32_768
_COPY_BUFFERS = 4

Moments = npt.NDArray[np.float16]


@dataclass
class _Found:
    """What is measured."""

    ways: dict[str, Way]
    same_rows: dict[str, bool]
    facts: dict[str, Any]


def bench_loader(
    rows: str = str(ROWS),
    shard: str = str(ROWS_PER_SHARD),
    num_lanes: str = str(NUM_LANES),
    rounds: str = str(ROUNDS),
    folder: str | None = None,
    peers: str | None = None,
    s3: str | None = None,
) -> dict[str, Any]:
    """Throughput, ratios (above 1: we are faster), shuffle quality, raw timings and versions.

    Args:
        rows: Rows of the store; another number than the default is another workload.
        shard: Rows of a shard.
        num_lanes: Lanes of the reader.
        rounds: Passes of every way.
        folder: Where data sets are kept for the next time; a temporary folder otherwise.
        peers: The Python of the peers' environment (``make bench-peers``).
        s3: ``s3://bucket/prefix``; server and keys as in the variables ``AWS_*``.

    Raises:
        ConfigError: An option cannot be used.
    """
    started = time.monotonic()
    counts = {"rows": rows, "shard": shard, "num_lanes": num_lanes, "rounds": rounds}
    number = {name: _positive(name, text) for name, text in counts.items()}
    _require_whole_batches(number)
    with ExitStack() as stack:
        peer = _peer(peers, stack)
        remote = s3_folder(s3) if s3 else None
        kept = folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="histodiff-bench-"))
        size = BenchSize(number["rows"], number["shard"])
        store = bench_store(storage_path(kept), size)
        found = _ours(store, number["num_lanes"])
        if peer:
            _add_peers(found, peer, store, number["num_lanes"])
        if remote:
            _add_s3(found, uploaded(store, remote), number["num_lanes"])
        passes = interleaved(found.ways, rounds=number["rounds"], title="bench loader")
    return {
        "bench": "loader",
        "workload": {**number, "batch": BATCH, "mixing": MIXING, "supertile": SUPERTILE},
        **_fields(passes),
        "same_rows": found.same_rows,
        **found.facts,
        "seconds": {name: [one.seconds for one in runs] for name, runs in passes.items()},
        "first_batch_seconds": {
            name: [one.first_seconds for one in runs] for name, runs in passes.items()
        },
        "provenance": provenance(time.monotonic() - started),
    }


def _peer(python: str | None, stack: ExitStack) -> PeerProcess | None:
    if python is None:
        return None
    return stack.enter_context(peer_process(python, PEERS_SCRIPT, target="bench-peers"))


def rows_digest(moments: Moments) -> int:
    """A number that depends on the set of rows, and not on their order."""
    words = moments.reshape(len(moments), -1).view(np.uint64)
    weights = np.arange(1, 2 * words.shape[1], 2, dtype=np.uint64)
    mixed = (words * weights).sum(axis=1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return int((mixed ^ (mixed >> np.uint64(29))).sum(dtype=np.uint64))


def _fields(passes: Passes) -> dict[str, float | None]:
    raw = max(
        (name for name in passes if name.startswith(_RAW)),
        key=lambda name: median_rate(passes, name) or 0.0,
        default=_RAW,
    )
    return {
        "rows_per_s": median_rate(passes, "ours"),
        "vs_memory_copy": ratio(passes, "ours", "memory_copy"),
        "vs_memory_copy_into_new_buffers": ratio(passes, "ours", "memory_copy_into_new_buffers"),
        "vs_streaming": ratio(passes, "ours", "streaming"),
        "vs_hdf5": ratio(passes, "ours", "hdf5"),
        "vs_hdf5_random": ratio(passes, "ours", "hdf5_random"),
        "s3_rows_per_s": median_rate(passes, "s3"),
        "s3_raw_get_rows_per_s": median_rate(passes, raw),
        "s3_vs_raw_get": ratio(passes, "s3", raw),
        "s3_first_epoch_vs_raw_get": ratio(passes, "s3_first_epoch", raw),
    }


def _ours(store: LatentStore, num_lanes: int) -> _Found:
    """The reader and memory copies, after a first pass of the reader."""
    slides = np.unique(store.rows["slide_id"].to_numpy(), return_inverse=True)[1]
    drawn, digest = [], 0
    with _read(store.path, num_lanes) as batches:
        for batch in batches:
            drawn.append(batch.row_B)
            digest = (digest + rows_digest(batch.moments_BMHW)) % 2**64
    perfect = generator_for(0, "bench loader", "perfect").permutation(store.num_rows)
    copied = store.read(0, min(_COPIED_ROWS, store.num_rows))
    return _Found(
        ways={
            "ours": lambda: _pass(store.path, num_lanes),
            "memory_copy": lambda: _copy(copied, store.num_rows, new_buffers=False),
            "memory_copy_into_new_buffers": lambda: _copy(copied, store.num_rows, new_buffers=True),
        },
        same_rows={"ours": digest == _store_digest(store)},
        facts={
            **_mixing(slides, np.concatenate(drawn), perfect),
            "training_draws": draw_rates(batch),
            "peers": None,
            "s3": None,
        },
    )


def _add_peers(found: _Found, peer: PeerProcess, store: LatentStore, num_lanes: int) -> None:
    """The peers on the same rows; they take their first pass here."""
    folder = Path(f"{store.path.path}-peers")
    rows = folder / "rows.npy"
    if not (folder / "done").exists():
        folder.mkdir(exist_ok=True)
        _write_array(store, rows)
    window = DEFAULT_SETTINGS.window_slabs * num_lanes
    found.facts["peers"] = peer.ask(
        do="prepare", rows=str(rows), folder=str(folder), window_chunks=window, batch=BATCH
    )
    rows.unlink(missing_ok=True)
    expected = _store_digest(store)
    for way in _PEER_READERS:
        answer = peer.ask(do="read", way=way, check=True)
        found.same_rows[way] = answer["digest"] == expected
        found.facts["peers"][f"{way}_batch"] = answer["shape"]
    for way in (*_PEER_READERS, "hdf5_random"):
        found.ways[way] = partial(_peer_pass, peer, way)


def _add_s3(found: _Found, store: LatentStore, num_lanes: int) -> None:
    """The reader on S3, and raw GETs of the same slabs."""
    raw = raw_gets(store)
    with _read(store.path, num_lanes) as batches:
        digest = sum(rows_digest(batch.moments_BMHW) for batch in batches) % 2**64
    found.same_rows["s3"] = digest == _store_digest(store)
    found.facts["s3"] = {
        way.client: {"at_once": way.at_once, "trials_bytes_per_s": way.bytes_per_s} for way in raw
    }
    found.ways["s3"] = lambda: _second_epoch(store, num_lanes)
    found.ways["s3_first_epoch"] = lambda: _pass(store.path, num_lanes)
    found.ways |= {f"{_RAW}{way.client}": way.read for way in raw}


@contextmanager
def _read(path: StoragePath, num_lanes: int, *, epochs: int = 1) -> Iterator[Iterator[LatentBatch]]:
    """Batches of some epochs from a store that is opened anew, so that nothing is in memory."""
    store = LatentStore.open(path)
    mixture = LatentMixture(
        [store], weights=[1.0], split=SPLIT, seed=0, batch=BATCH, num_lanes=num_lanes
    )
    batches = mixture.batches(0)
    assert isinstance(batches, Generator)
    with closing(batches):
        yield islice(batches, epochs * (store.num_rows // BATCH))


def _pass(path: StoragePath, num_lanes: int) -> Pass:
    with _read(path, num_lanes) as batches:
        return timed(len(batch.moments_BMHW) for batch in batches)


def _second_epoch(store: LatentStore, num_lanes: int) -> Pass:
    """An epoch as all but the first are: as much is read ahead when it begins as when it ends."""
    with _read(store.path, num_lanes, epochs=2) as batches:
        lengths = (len(batch.moments_BMHW) for batch in batches)
        for _ in range(store.num_rows // BATCH):
            next(lengths)
        return timed(lengths)


def _peer_pass(peer: PeerProcess, way: str) -> Pass:
    answer = peer.ask(do="read", way=way, check=False)
    return Pass(answer["seconds"], answer["rows"], answer["first_seconds"])


def _copy(source: Moments, rows: int, *, new_buffers: bool) -> Pass:
    """Rows of an array in memory, copied batch by batch, into few buffers or a new one each."""
    shape = (BATCH, *source.shape[1:])
    buffers = [np.zeros(shape, source.dtype) for _ in range(_COPY_BUFFERS)]

    def batches() -> Iterator[int]:
        for start in range(0, rows, BATCH):
            into = (
                np.empty(shape, source.dtype)
                if new_buffers
                else buffers[start // BATCH % _COPY_BUFFERS]
            )
            place = start % len(source)
            np.copyto(into, source[place : place + BATCH])
            yield len(into)

    return timed(batches())


def _mixing(
    slides: npt.NDArray[np.intp], drawn: npt.NDArray[np.int64], perfect: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Distinct slides in batches, and neighbours of one slide, beside a perfect shuffle."""
    ours, best = (distinct_slides(slides[order].reshape(-1, BATCH)) for order in (drawn, perfect))
    return {
        "distinct_slides_per_256": ours,
        "distinct_slides_per_256_of_perfect_shuffle": best,
        "distinct_slides_vs_perfect_shuffle": ours / best,
        "lag_1_same_slide": _same_neighbours(slides[drawn]),
        "lag_1_same_slide_of_perfect_shuffle": _same_neighbours(slides[perfect]),
        "slides": float(slides.max() + 1),
    }


def _same_neighbours(slides: npt.NDArray[np.intp]) -> float:
    """Share of samples that come from the slide of the sample before."""
    return float(np.mean(slides[1:] == slides[:-1]))


def _store_digest(store: LatentStore) -> int:
    shards = (store.layout.shard_rows(shard) for shard in range(store.layout.num_shards))
    return sum(rows_digest(store.read(rows.start, rows.stop)) for rows in shards) % 2**64


def _write_array(store: LatentStore, path: Path) -> None:
    """All moments as one array file."""
    shape = (store.num_rows, *store.moment_shape)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    for shard in range(store.layout.num_shards):
        rows = store.layout.shard_rows(shard)
        array[rows.start : rows.stop] = store.read(rows.start, rows.stop)
    array.flush()


def _positive(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"bench loader: {name}={text}: give a number above zero")
    return int(text)


def _require_whole_batches(number: dict[str, int]) -> None:
    for name in ("rows", "shard"):
        if number[name] % BATCH:
            raise ConfigError(
                f"bench loader: {name}={number[name]}: give a multiple of the batch, {BATCH}"
            )
