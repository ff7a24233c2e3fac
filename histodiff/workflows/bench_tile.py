"""``bench tile``: our patches per second beside OpenSlide alone and beside decoding alone.

Patches of 512 px are read from a generated slide of 20,480 px (JPEG tiles of 256 px) and halved
with one box filter, on one core. The three ways take turns on the same patches, each round with
freshly opened files, so that noise of the machine falls on all alike; medians count.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import provenance
from histodiff.data_prep.slides.generated import render_slide
from histodiff.data_prep.slides.limits import BareOpenSlide, TileDecoder, write_bench_slide
from histodiff.data_prep.slides.opening import open_slide_at
from histodiff.data_prep.slides.patch_index import (
    PATCHES_SCHEMA,
    SLIDES_SCHEMA,
    IndexFacts,
    PatchIndex,
    table_from_rows,
)
from histodiff.data_prep.slides.pixels import shrunk
from histodiff.data_prep.slides.reading import PatchReader
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


def bench_tile() -> dict[str, Any]:
    """Ratios of throughput (above 1: we are faster), raw timings, versions and hardware."""
    started = time.monotonic()
    side = FIELD_PX * REPEATS
    with tempfile.TemporaryDirectory(prefix="histodiff-bench-") as folder:
        slide = Path(folder) / "bench.svs"
        write_bench_slide(slide, render_slide(0, 1, size_px=FIELD_PX), repeats=REPEATS)
        aligned = _measured(slide, _corners("aligned", side, step=PATCH_PX), decode=True)
        unaligned = _measured(slide, _corners("unaligned", side, step=1), decode=False)
    return {
        "bench": "tile",
        "aligned_vs_openslide": _ratio(aligned, "openslide"),
        "unaligned_vs_openslide": _ratio(unaligned, "openslide"),
        "aligned_vs_decode_limit": _ratio(aligned, "decode"),
        "pixels_identical": _identical(aligned) and _identical(unaligned),
        "patches_per_s_core": PATCHES_PER_ROUND / _median(aligned["ours"]),
        "seconds": {
            "aligned": {name: [t.seconds for t in runs] for name, runs in aligned.items()},
            "unaligned": {name: [t.seconds for t in runs] for name, runs in unaligned.items()},
        },
        "patches_per_round": PATCHES_PER_ROUND,
        "provenance": provenance(time.monotonic() - started),
    }


def _corners(purpose: str, side_px: int, *, step: int) -> Corners:
    """Seeded corners of patches that lie wholly in the slide, on a grid of ``step``."""
    rng = generator_for(0, "bench tile", purpose)
    most = (side_px - READ_PX) // step
    drawn = rng.integers(0, most + 1, size=(PATCHES_PER_ROUND, 2)) * step
    return [(int(x), int(y)) for x, y in drawn]


def _measured(slide: Path, corners: Corners, *, decode: bool) -> dict[str, list[_Timing]]:
    ways: dict[str, Callable[[], _Timing]] = {
        "ours": lambda: _ours(slide, corners),
        "openslide": lambda: _baseline(BareOpenSlide, slide, corners),
    }
    if decode:
        ways["decode"] = lambda: _baseline(TileDecoder, slide, corners)
    runs: dict[str, list[_Timing]] = {name: [] for name in ways}
    with progress("bench tile", total=ROUNDS, unit="rounds") as bar:
        for _ in range(ROUNDS):
            for name, way in ways.items():
                runs[name].append(way())
            bar.advance()
    return runs


def _ours(slide: Path, corners: Corners) -> _Timing:
    reader = PatchReader(_index(slide, corners))
    started = time.perf_counter()
    block = reader.read(range(len(corners)))
    reader.close()
    seconds = time.perf_counter() - started
    assert not block.failures
    return _Timing(seconds, block.pixels)


def _baseline(
    make_reader: Callable[[Path], RegionReader], slide: Path, corners: Corners
) -> _Timing:
    started = time.perf_counter()
    reader = make_reader(slide)
    pixels = np.stack([shrunk(reader.read(x, y, READ_PX), PATCH_PX, "box") for x, y in corners])
    reader.close()
    return _Timing(time.perf_counter() - started, pixels)


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


def _identical(runs: dict[str, list[_Timing]]) -> bool:
    return bool((runs["ours"][0].pixels == runs["openslide"][0].pixels).all())
