"""``bench encode``: the wall time of encoding against the sum of its parts.

Patches of 128 px of a generated slide of 20,480 px become a latent store, with the reader and
encoder actors of ``encode`` on a local Ray, one encoder with one thread for each core. Decoding,
forward passes and writing are measured apart, each alone on one core over the same parts, batches
and shards. Rounds alternate; medians count. ``time_vs_sum_of_parts`` is wall / (sum / cores): 1.0
means that no core was ever idle and nothing else was done. The clock of a run starts when all
encoders are ready, and ends with the last ledger record.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Generic, TypeVar, overload

import numpy as np
import torch

from histodiff.artifacts import provenance
from histodiff.cluster.pool import run_encode_pool, run_pool
from histodiff.cluster.session import ray_session
from histodiff.cluster.site import LocalRay
from histodiff.data_prep.generated import render_slide
from histodiff.data_prep.index.patch_index import (
    PATCHES_SCHEMA,
    SLIDES_SCHEMA,
    IndexFacts,
    PatchIndex,
    table_from_rows,
    write_patch_index,
)
from histodiff.data_prep.readers.limits import BENCH_MPP, write_bench_slide
from histodiff.data_prep.readers.opening import open_slide_at
from histodiff.data_prep.stages.encode import EncodedShard, ShardEncoder
from histodiff.data_prep.stages.forward import (
    EncodeSettings,
    ForwardPasses,
    Moments,
    batches_of,
    torch_threads,
)
from histodiff.data_prep.stages.parts import EncodeReader, parts_of
from histodiff.errors import ConfigError
from histodiff.latents import ShardUnit, ShardWriter, StoreAttributes, StoreLayout, plan_shards
from histodiff.models.autoencoder import (
    Autoencoder,
    AutoencoderPreset,
    autoencoder_preset,
    create_network,
    load_autoencoder,
    save_autoencoder,
)
from histodiff.runtime import PixelBlock
from histodiff.runtime.memory import keep_freed_memory
from histodiff.storage import StoragePath, storage_path, write_bytes
from histodiff.telemetry import progress

AUTOENCODERS: tuple[AutoencoderPreset, ...] = ("tiny", "small")
PATCH_PX = 128
FIELD_PX = 4096
ROUNDS = 3
ROWS_PER_SHARD, ROWS_PER_CHUNK = 512, 64
SUPERTILE = 8
SETTINGS = EncodeSettings(batch=32, threads=1, precision="fp32")
BUSY_BATCHES = 16
"""Batches with which is measured how much cores slow each other down."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Workload:
    """What one autoencoder has to do."""

    index: StoragePath
    autoencoder: StoragePath
    layout: StoreLayout
    units: Sequence[ShardUnit]
    cores: int

    def writer(self, path: StoragePath) -> ShardWriter:
        return ShardWriter(path, self.layout)

    def passes(self) -> ForwardPasses:
        autoencoder = load_autoencoder(self.autoencoder, device="cpu")
        return ForwardPasses(autoencoder, settings=SETTINGS, device=torch.device("cpu"))

    def make_encoder(self, writer: ShardWriter) -> Callable[[], ShardEncoder]:
        load = partial(load_autoencoder, self.autoencoder, device="cpu")
        return partial(ShardEncoder, load, writer=writer, settings=SETTINGS, device="cpu")


@dataclass(frozen=True)
class _Round:
    """Seconds of one round."""

    wall: float
    startup: float
    decode: float
    encode: float
    write: float
    encode_beside_others: float
    """As ``encode``, on all cores at the same time."""
    waited: float
    """Encoders together had no pixels."""


def bench_encode(patches: str = "4096", size: str = "20480") -> dict[str, Any]:
    """Ratios (1.0 is perfect), raw timings, versions and hardware.

    Args:
        patches: How many patches.
        size: Side of the generated slide in pixels.

    Raises:
        ConfigError: The slide has not that many patches.
    """
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="histodiff-bench-") as folder,
        ray_session(LocalRay(type="local")),
    ):
        index = _patch_index(Path(folder), num_patches=int(patches), size_px=int(size))
        loads = {name: _workload(Path(folder), name, index) for name in AUTOENCODERS}
        rounds: dict[str, list[_Round]] = {name: [] for name in AUTOENCODERS}
        with progress("bench encode", total=ROUNDS * len(loads), unit="rounds") as bar:
            for number in range(ROUNDS):
                for name, load in loads.items():
                    place = storage_path(Path(folder) / f"{name}-{number}")
                    rounds[name].append(_round(load, place))
                    bar.advance()
    cores = os.cpu_count() or 1
    return {
        "bench": "encode",
        "time_vs_sum_of_parts": {name: _vs_parts(runs, cores) for name, runs in rounds.items()},
        "patches_per_s": {
            name: int(patches) / median(run.wall for run in runs) for name, runs in rounds.items()
        },
        "shares_of_core_time": {name: _shares(runs, cores) for name, runs in rounds.items()},
        "seconds": {name: [vars(run) for run in runs] for name, runs in rounds.items()},
        "patches": int(patches),
        "batch": SETTINGS.batch,
        "cores": cores,
        "provenance": provenance(time.monotonic() - started),
    }


def _vs_parts(runs: Sequence[_Round], cores: int) -> float:
    return median(run.wall * cores / (run.decode + run.encode + run.write) for run in runs)


def _shares(runs: Sequence[_Round], cores: int) -> dict[str, float]:
    """Where the time of all cores went, as shares of ``cores * wall``.

    ``slower_beside_others``: forward passes take longer when all cores compute at once (memory,
    shared units, clock), which no pipeline can change. ``rest``: idle cores, moving pixels, Ray.
    """

    def share(seconds: Callable[[_Round], float]) -> float:
        return median(seconds(run) / (cores * run.wall) for run in runs)

    parts = {
        "decode": share(lambda run: run.decode),
        "encode": share(lambda run: run.encode),
        "write": share(lambda run: run.write),
    }
    slower = share(lambda run: max(0.0, run.encode_beside_others - run.encode))
    return {
        **parts,
        "slower_beside_others": slower,
        "rest": 1 - sum(parts.values()) - slower,
        "encoders_without_pixels": share(lambda run: run.waited),
    }


def _round(load: _Workload, place: StoragePath) -> _Round:
    """All parts alone, then the whole."""
    beside = _encode_beside_others(load, Path(place.path) / "beside")
    alone = _Alone(load)
    with _one_core():
        decode = _seconds(alone.decode)
        encode = _seconds(alone.encode)
        write = _seconds(partial(alone.write, load.writer(place / "alone")))
    found = _run_pool(load, place / "whole")
    return _Round(
        wall=found.wall,
        startup=found.startup,
        decode=decode,
        encode=encode,
        write=write,
        encode_beside_others=beside,
        waited=sum(shard.waited_seconds for shard in found.shards),
    )


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class _Alone:
    """The parts of the work one after the other, each with what the one before has left."""

    def __init__(self, load: _Workload) -> None:
        keep_freed_memory()  # as the encoders do
        self._load = load
        self._reader = EncodeReader(load.index)
        self._passes = load.passes()
        self._blocks: list[list[PixelBlock]] = []
        self._moments: list[Moments] = []

    def decode(self) -> None:
        for unit in self._load.units:
            parts = parts_of(unit, batch=SETTINGS.batch)
            self._blocks.append([self._reader.read(part) for part in parts])

    def encode(self) -> None:
        with torch_threads(SETTINGS.threads):
            for unit, blocks in zip(self._load.units, self._blocks, strict=True):
                moments = np.empty((len(unit.patches), *self._load.layout.moment_shape), np.float16)
                for done in self._passes.run(batches_of(blocks, SETTINGS.batch)):
                    moments[done.block.positions] = done.moments
                self._moments.append(moments)

    def write(self, writer: ShardWriter) -> None:
        for unit, moments in zip(self._load.units, self._moments, strict=True):
            writer.write(unit.shard, moments, {})


class _BesideWorker:
    """Forward passes alone, on random pixels; the seconds that a patch takes."""

    def __init__(self, load: _Workload) -> None:
        keep_freed_memory()
        self._passes = load.passes()
        self._encode(1)

    def run(self, unit: int) -> float:
        """Seconds a patch, over ``unit`` batches."""
        return _seconds(partial(self._encode, unit)) / (unit * SETTINGS.batch)

    def _encode(self, batches: int) -> None:
        shape = (SETTINGS.batch, PATCH_PX, PATCH_PX, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        block = PixelBlock(np.arange(SETTINGS.batch), pixels, {})
        with torch_threads(SETTINGS.threads):
            for _ in self._passes.run([block] * batches):
                pass


def _encode_beside_others(load: _Workload, meeting: Path) -> float:
    """Core seconds of all forward passes while every core does the same."""
    make = _ReadyTogether(partial(_BesideWorker, load), meeting, load.cores)
    done = run_pool(make, [BUSY_BATCHES] * load.cores, num_workers=load.cores)
    per_patch = median([finished.record for finished in done])
    return per_patch * load.layout.num_rows


@dataclass(frozen=True)
class _ReadyTogether(Generic[T]):
    """Makes a worker, and gives it when all processes of a pool have made theirs."""

    make: Callable[[], T]
    meeting: Path
    count: int

    def __call__(self) -> T:
        made = self.make()
        self.meeting.mkdir(parents=True, exist_ok=True)
        (self.meeting / str(os.getpid())).touch()
        while len(list(self.meeting.iterdir())) < self.count:
            time.sleep(0.01)
        return made


class _StartingUnits(Sequence[ShardUnit]):
    """Units that know when the first of them was given out."""

    def __init__(self, units: Sequence[ShardUnit]) -> None:
        self._units = units
        self.started: float | None = None

    def __len__(self) -> int:
        return len(self._units)

    @overload
    def __getitem__(self, number: int) -> ShardUnit: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[ShardUnit]: ...
    def __getitem__(self, number: int | slice) -> ShardUnit | Sequence[ShardUnit]:
        self.started = self.started or time.perf_counter()
        return self._units[number]


@dataclass(frozen=True)
class _Whole:
    """A run of the pool."""

    wall: float
    startup: float
    shards: Sequence[EncodedShard]


def _run_pool(load: _Workload, place: StoragePath) -> _Whole:
    writer = load.writer(place)
    writer.write_metadata()
    units = _StartingUnits(load.units)
    encoders = min(load.cores, len(units))
    called = time.perf_counter()
    pool = run_encode_pool(
        partial(EncodeReader, load.index),
        _ReadyTogether(load.make_encoder(writer), Path(place.path) / "meeting", encoders),
        units,
        parts_of=partial(parts_of, batch=SETTINGS.batch),
        num_readers=1,
        num_encoders=encoders,
    )
    shards, last = [], called
    for finished in pool:
        shards.append(finished.record)
        last = time.perf_counter()
    assert units.started is not None
    return _Whole(last - units.started, units.started - called, shards)


@contextmanager
def _one_core() -> Iterator[None]:
    """This process on one core for the time of the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _workload(folder: Path, name: AutoencoderPreset, index: StoragePath) -> _Workload:
    torch.manual_seed(0)
    architecture = autoencoder_preset(name)
    autoencoder = Autoencoder(create_network(architecture))
    path = storage_path(folder / f"autoencoder-{name}")
    save_autoencoder(path, autoencoder)
    table = PatchIndex.open(index).patches
    plan = plan_shards(table, supertile=SUPERTILE, mixing=1, rows_per_shard=ROWS_PER_SHARD, seed=0)
    side = PATCH_PX // autoencoder.downsampling
    layout = StoreLayout(
        num_rows=table.num_rows,
        moment_shape=(2 * autoencoder.latent_channels, side, side),
        rows_per_shard=ROWS_PER_SHARD,
        rows_per_chunk=ROWS_PER_CHUNK,
        attributes=StoreAttributes(
            encoder_sha256=autoencoder.encoder_sha256, patch_px=PATCH_PX, mpp=BENCH_MPP, classes=()
        ),
    )
    return _Workload(index, path, layout, list(plan.units()), os.cpu_count() or 1)


def _patch_index(folder: Path, *, num_patches: int, size_px: int) -> StoragePath:
    """A PatchIndex of the first patches of the slide, row by row."""
    across = size_px // PATCH_PX
    if num_patches > across**2 or size_px % min(size_px, FIELD_PX):
        raise ConfigError(
            f"bench encode: patches={num_patches} of {PATCH_PX} px, size={size_px}: give a size"
            f" that is at most {FIELD_PX} or a multiple of it, and at most {across**2} patches"
        )
    slide = folder / "bench.svs"
    field = min(size_px, FIELD_PX)
    write_bench_slide(slide, render_slide(0, 1, size_px=field), repeats=size_px // field)
    opened = open_slide_at(storage_path(slide))
    reader, tiles = opened.reader.info.reader, opened.index
    opened.close()
    facts = IndexFacts(patch_px=PATCH_PX, mpp=BENCH_MPP, resample="box", classes=())
    slides = [
        {
            **dict.fromkeys(SLIDES_SCHEMA.names),
            "slide_id": "bench",
            "url": str(slide),
            "status": "ok",
            "reader": reader,
        }
    ]
    index = PatchIndex(
        slides=table_from_rows(slides, SLIDES_SCHEMA),
        patches=table_from_rows(_rows(num_patches, across), PATCHES_SCHEMA),
        facts=facts,
    )
    path = storage_path(folder / "patches")
    write_patch_index(path, index)
    if tiles is not None:
        write_bytes(path / "tiles" / "bench.parquet", tiles.to_bytes())
    return path


def _rows(num_patches: int, across: int) -> list[dict[str, Any]]:
    row: dict[str, Any] = dict.fromkeys(PATCHES_SCHEMA.names)
    row |= {"slide_id": "bench", "path": "", "level": 0, "split": "train"}
    row |= {"read_width": PATCH_PX, "read_height": PATCH_PX}
    places = (divmod(number, across) for number in range(num_patches))
    return [{**row, "x": x * PATCH_PX, "y": y * PATCH_PX} for y, x in places]
