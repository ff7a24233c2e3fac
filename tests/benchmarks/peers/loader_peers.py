"""Peers of ``bench loader``: MosaicML StreamingDataset and HDF5 on the same rows.

Runs in an environment of its own (requirements.txt beside this file; ``make bench-peers``) and
speaks JSON lines: one question on stdin, one answer on stdout.

    {"do": "prepare", "rows": "rows.npy", "folder": "...", "window_chunks": 16, "batch": 256}
        writes both data sets where they are not there yet, and chooses the number of workers
    {"do": "read", "way": "streaming" | "hdf5" | "hdf5_random", "check": false}
        reads an epoch (hdf5_random: some batches); seconds, rows, seconds to the first batch
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory
from torch.utils.data import DataLoader

CHUNK_ROWS = 256
TRIED_WORKERS = (0, 1, 2)
TRIAL_BATCHES = 64
RANDOM_BATCHES = 32
PACKAGES = ("mosaicml-streaming", "torch", "h5py", "numpy")


@dataclass
class Peers:
    """Both data sets, opened."""

    folder: Path
    batch: int
    window_chunks: int
    num_workers: int
    loader: "DataLoader[Any] | None" = None
    epoch: int = 0

    def read(self, way: str, *, check: bool) -> dict[str, Any]:
        """Reads through; with ``check`` the digest of all rows instead of a time that counts."""
        batches = {
            "streaming": self._streaming,
            "hdf5": self._hdf5_windows,
            "hdf5_random": self._hdf5_random,
        }[way]
        self.epoch += 1
        return consumed(batches, check=check)

    def _streaming(self) -> Iterator[np.ndarray]:
        if self.loader is None:
            self.loader = mosaic_loader(self.folder / "mds", self.batch, self.num_workers)
        for item in self.loader:
            yield item["moments"]

    def _hdf5_windows(self) -> Iterator[np.ndarray]:
        """Chunks in random order; rows are permuted within windows of as many as ours keeps."""
        rng = np.random.default_rng(self.epoch)
        with h5py.File(self.folder / "rows.h5", "r") as file:
            data = file["moments"]
            chunk_rows = data.chunks[0]
            starts = rng.permutation(np.arange(0, len(data), chunk_rows))
            window = np.empty((self.window_chunks * chunk_rows, *data.shape[1:]), data.dtype)
            for first in range(0, len(starts), self.window_chunks):
                filled = 0
                for start in starts[first : first + self.window_chunks]:
                    stop = min(int(start) + chunk_rows, len(data))
                    target = np.s_[filled : filled + stop - int(start)]
                    data.read_direct(window, np.s_[int(start) : stop], target)
                    filled += stop - int(start)
                order = rng.permutation(filled)
                for place in range(0, filled, self.batch):
                    yield window[order[place : place + self.batch]]

    def _hdf5_random(self) -> Iterator[np.ndarray]:
        """A perfect shuffle: every batch is read row by row from wherever its rows are."""
        rng = np.random.default_rng(self.epoch)
        with h5py.File(self.folder / "rows.h5", "r") as file:
            data = file["moments"]
            order = rng.permutation(len(data))
            for place in range(0, min(len(data), RANDOM_BATCHES * self.batch), self.batch):
                yield data[np.sort(order[place : place + self.batch])]


def mosaic_loader(folder: Path, batch: int, num_workers: int) -> "DataLoader[Any]":
    """The usual loader: local, shuffled with the default algorithm."""
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=batch)
    return DataLoader(
        dataset, batch_size=batch, num_workers=num_workers, persistent_workers=num_workers > 0
    )


def consumed(batches: Callable[[], Iterator[Any]], *, check: bool) -> dict[str, Any]:
    """Time, rows and shape of what a training loop would get."""
    rows, digest, first, shape = 0, 0, 0.0, None
    started = time.perf_counter()
    for batch in batches():
        if not rows:
            first, shape = time.perf_counter() - started, [str(batch.dtype), *batch.shape]
        rows += len(batch)
        if check:
            digest = (digest + rows_digest(np.asarray(batch))) % 2**64
    seconds = time.perf_counter() - started
    answer = {"seconds": seconds, "rows": rows, "first_seconds": first, "shape": shape}
    return {**answer, "digest": digest} if check else answer


def rows_digest(rows: np.ndarray) -> int:
    """A number that depends on the set of rows, and not on their order; as in `bench_loader`."""
    words = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint64)
    weights = np.arange(1, 2 * words.shape[1], 2, dtype=np.uint64)
    mixed = (words * weights).sum(axis=1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return int((mixed ^ (mixed >> np.uint64(29))).sum(dtype=np.uint64))


def prepare(rows: str | None, folder: str, window_chunks: int, batch: int) -> Peers:
    """Writes what is missing, then tries numbers of workers."""
    place = Path(folder)
    if not (place / "done").exists():
        assert rows is not None
        array = np.load(rows, mmap_mode="r")
        write_mds(array, place / "mds")
        write_hdf5(array, place / "rows.h5")
        (place / "done").touch()
    clean_stale_shared_memory()
    return Peers(place, batch, window_chunks, num_workers=0)


def write_mds(rows: np.ndarray, folder: Path) -> None:
    shape = ",".join(str(side) for side in rows.shape[1:])
    with MDSWriter(out=str(folder), columns={"moments": f"ndarray:{rows.dtype}:{shape}"}) as writer:
        for row in rows:
            writer.write({"moments": np.asarray(row)})


def write_hdf5(rows: np.ndarray, path: Path) -> None:
    with h5py.File(path, "w") as file:
        chunks = (min(CHUNK_ROWS, len(rows)), *rows.shape[1:])
        data = file.create_dataset("moments", rows.shape, rows.dtype, chunks=chunks)
        for start in range(0, len(rows), chunks[0]):
            data[start : start + chunks[0]] = rows[start : start + chunks[0]]


def tried_workers(peers: Peers) -> dict[str, float]:
    """Rows per second of a short piece by number of workers; the best one is kept."""
    rates = {}
    for count in TRIED_WORKERS:
        peers.loader, peers.num_workers = None, count
        for _ in range(2):  # the first starts workers and fills caches
            started, rows = time.perf_counter(), 0
            for batch in islice(peers._streaming(), TRIAL_BATCHES):
                rows += len(batch)
            rates[str(count)] = rows / (time.perf_counter() - started)
    peers.loader, peers.num_workers = None, int(max(rates, key=rates.__getitem__))
    return rates


def main() -> None:
    # libraries print to stdout; answers keep the real one to themselves
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    peers: Peers | None = None
    for line in sys.stdin:
        question = json.loads(line)
        if question.pop("do") == "prepare":
            peers = prepare(**question)
            answer: dict[str, Any] = {"workers_rows_per_s": tried_workers(peers)}
            answer["num_workers"] = peers.num_workers
            answer["versions"] = {name: metadata.version(name) for name in PACKAGES}
        else:
            assert peers is not None
            answer = peers.read(**question)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
