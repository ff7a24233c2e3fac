"""``bench tile``: our patches per second beside OpenSlide alone and beside decoding alone.

Patches of 512 px are read from a generated slide of 20,480 px (JPEG tiles of 256 px), or from a
slide that is given, and halved with one box filter, on one core. The ways take turns on the same
patches, each round with freshly opened files (opening is not counted), so that noise of the machine
falls on all alike; medians count. Two limits: tiles decoded and halved one by one, which is all
that the work consists of, and tiles decoded alone.
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
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import provenance
from histodiff.data_prep.generated import render_slide
from histodiff.data_prep.index.patch_index import (
    PATCHES_SCHEMA,
    SLIDES_SCHEMA,
    IndexFacts,
    PatchIndex,
    table_from_rows,
)
from histodiff.data_prep.index.reading import PatchReader
from histodiff.data_prep.readers.limits import BareOpenSlide, TileDecoder, write_bench_slide
from histodiff.data_prep.readers.opening import open_slide_at
from histodiff.data_prep.readers.peers import installed_peers
from histodiff.data_prep.readers.resampling import shrink_into
from histodiff.errors import ConfigError
from histodiff.runtime import generator_for
from histodiff.storage import storage_path
from histodiff.telemetry import progress

FIELD_PX = 4096
REPEATS = 5
READ_PX, PATCH_PX = 512, 256
PATCHES_PER_ROUND = 96
ROUNDS = 7

Corners = Sequence[tuple[int, int]]
Pixels = npt.NDArray[np.uint8]


class RegionReader(Protocol):
    """A baseline."""

    def read(self, x: int, y: int, side_px: int) -> Pixels:
        """Level-0 pixels of a region."""

    def close(self) -> None:
        """Frees what it holds."""


@dataclass(frozen=True)
class _Timing:
    seconds: float
    pixels: Pixels


def bench_tile(slide: str | None = None) -> dict[str, Any]:
    """Ratios of throughput (above 1: we are faster), raw timings, versions and hardware.

    Args:
        slide: A slide to read instead of the generated one.

    Raises:
        ConfigError: The slide is too small, or its tiles are no JPEG.
        SlideError: It cannot be read.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="histodiff-bench-") as folder, _one_core():
        path = Path(slide) if slide else Path(folder) / "bench.svs"
        if slide is None:
            write_bench_slide(path, render_slide(0, 1, size_px=FIELD_PX), repeats=REPEATS)
        size, step = _size_and_tile(path)
        aligned = _measured(path, _corners("aligned", size, step=step), halve=step % 2 == 0)
        unaligned = _measured(path, _corners("unaligned", size, step=1))
    others = [name for name in aligned if name not in ("ours", "decode", "decode_and_halve")]
    return {
        "bench": "tile",
        "slide": slide or "generated",
        **{f"aligned_vs_{name}": _ratio(aligned, name) for name in others},
        **{f"unaligned_vs_{name}": _ratio(unaligned, name) for name in others},
        "aligned_vs_decode_limit": _ratio(aligned, "decode_and_halve")
        if "decode_and_halve" in aligned
        else None,
        "aligned_vs_decode_only": _ratio(aligned, "decode"),
        "unaligned_vs_decode_only": _ratio(unaligned, "decode"),
        "pixels_identical": _identical(aligned, "openslide") and _identical(unaligned, "openslide"),
        "peer_pixels_identical": {
            name: _identical(aligned, name) and _identical(unaligned, name)
            for name in others
            if name != "openslide"
        },
        "patches_per_s_core": PATCHES_PER_ROUND / _median(aligned["ours"]),
        "seconds": {
            "aligned": {name: [t.seconds for t in runs] for name, runs in aligned.items()},
            "unaligned": {name: [t.seconds for t in runs] for name, runs in unaligned.items()},
        },
        "patches_per_round": PATCHES_PER_ROUND,
        "provenance": provenance(time.monotonic() - started),
    }


@contextmanager
def _one_core() -> Iterator[None]:
    """This process on one core for the time of the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _size_and_tile(slide: Path) -> tuple[tuple[int, int], int]:
    """Width and height of the slide, and the side of its tiles."""
    opened = open_slide_at(storage_path(slide))
    info = opened.reader.info
    opened.close()
    if min(info.width, info.height) < READ_PX:
        raise ConfigError(
            f"slide={slide}: has {info.width}x{info.height} px; give one of at least {READ_PX} px"
        )
    tile = info.level_tiles[0]
    return (info.width, info.height), tile[0] if tile else 1


def _corners(purpose: str, size_px: tuple[int, int], *, step: int) -> Corners:
    """Seeded corners of patches that lie wholly in the slide, on a grid of ``step``."""
    rng = generator_for(0, "bench tile", purpose)
    most = [(side - READ_PX) // step for side in size_px]
    drawn = rng.integers(0, [limit + 1 for limit in most], size=(PATCHES_PER_ROUND, 2)) * step
    return [(int(x), int(y)) for x, y in drawn]


def _measured(slide: Path, corners: Corners, *, halve: bool = False) -> dict[str, list[_Timing]]:
    ways: dict[str, Callable[[], _Timing]] = {
        "ours": lambda: _ours(slide, corners),
        "openslide": lambda: _baseline(BareOpenSlide, slide, corners),
        "decode": lambda: _decoded(slide, corners),
    }
    if halve:  # whole tiles of even size
        ways["decode_and_halve"] = lambda: _decoded(slide, corners, halve=True)
    for name, peer in installed_peers().items():
        ways[name] = partial(_baseline, peer, slide, corners)
    runs: dict[str, list[_Timing]] = {name: [] for name in ways}
    with progress("bench tile", total=ROUNDS, unit="rounds") as bar:
        for _ in range(ROUNDS):
            for name, way in ways.items():
                runs[name].append(way())
            bar.advance()
    return runs


def _decoded(slide: Path, corners: Corners, *, halve: bool = False) -> _Timing:
    decoder = TileDecoder(slide)
    started = time.perf_counter()
    for x, y in corners:
        for tile in decoder.read(x, y, READ_PX):
            if halve:
                half = np.empty((tile.shape[0] // 2, tile.shape[1] // 2, 3), np.uint8)
                shrink_into(tile, resample="box", out=half)
    seconds = time.perf_counter() - started
    decoder.close()
    return _Timing(seconds, np.empty(0, np.uint8))


def _ours(slide: Path, corners: Corners) -> _Timing:
    reader = PatchReader(_index(slide, corners))
    reader.open("bench")
    started = time.perf_counter()
    block = reader.read(range(len(corners)))
    seconds = time.perf_counter() - started
    reader.close()
    assert not block.failures
    return _Timing(seconds, block.pixels)


def _baseline(
    make_reader: Callable[[Path], RegionReader], slide: Path, corners: Corners
) -> _Timing:
    reader = make_reader(slide)
    started = time.perf_counter()
    pixels = np.empty((len(corners), PATCH_PX, PATCH_PX, 3), np.uint8)
    for out, (x, y) in zip(pixels, corners, strict=True):
        shrink_into(reader.read(x, y, READ_PX), resample="box", out=out)
    seconds = time.perf_counter() - started
    reader.close()
    return _Timing(seconds, pixels)


def _index(slide: Path, corners: Corners) -> PatchIndex:
    empty: dict[str, Any] = dict.fromkeys(SLIDES_SCHEMA.names)
    row: dict[str, Any] = dict.fromkeys(PATCHES_SCHEMA.names)
    row |= {"slide_id": "bench", "path": "", "level": 0, "split": "train"}
    row |= {"read_width": READ_PX, "read_height": READ_PX}
    opened = open_slide_at(storage_path(slide))
    reader = opened.reader.info.reader
    opened.close()
    slides = [{**empty, "slide_id": "bench", "url": str(slide), "status": "ok", "reader": reader}]
    return PatchIndex(
        slides=table_from_rows(slides, SLIDES_SCHEMA),
        patches=table_from_rows([{**row, "x": x, "y": y} for x, y in corners], PATCHES_SCHEMA),
        facts=IndexFacts(patch_px=PATCH_PX, mpp=0.5, resample="box", classes=()),
    )


def _median(runs: Sequence[_Timing]) -> float:
    return median(run.seconds for run in runs)


def _ratio(runs: dict[str, list[_Timing]], other: str) -> float:
    """Our throughput over the other's."""
    return _median(runs[other]) / _median(runs["ours"])


def _identical(runs: dict[str, list[_Timing]], other: str) -> bool:
    return bool((runs["ours"][0].pixels == runs[other][0].pixels).all())
