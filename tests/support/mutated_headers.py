"""Slides whose headers are mutated at random, and what a reader makes of them.

``python -m tests.support.mutated_headers KIND FIRST COUNT FOLDER`` reads COUNT mutations, one line
of JSON each, in a process of its own: what would crash or hang it is seen by who started it. The
original is tissue all over, its sides are whole tiles: no patch of it is flat, so any flat one is
false.
"""

import contextlib
import json
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from histodiff.data_prep.readers.opening import open_slide_at
from histodiff.data_prep.readers.reader import SlideReader
from histodiff.data_prep.readers.thumbnails import thumbnail
from histodiff.errors import SlideError
from histodiff.storage import storage_path
from tests.support.dicom_slides import write_series
from tests.support.tiff_slides import TILE_PX, pyramid, tissue_pixels, write_svs

MOST_SECONDS = 10
MOST_BYTES = 3 * 2**30
"""Address space of the process beyond what it has before the first file."""
SIDE = 3 * TILE_PX
_PATCH_PX = 64
_MOST_PATCHES = 64
_FLAT = 2.0
"""Standard deviation below which nothing is shown; the tissue has some twenty."""
_JPEG_HEADER_BYTES = 640


def _svs(path: Path) -> Path:
    return write_svs(path.with_suffix(".svs"), pyramid(tissue_pixels(SIDE), (2.0,)), mpp=0.5)


def _tiff(compression: str, *, ome: bool, tiled: bool = True) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path = path.with_suffix(".ome.tif" if ome else ".tif")
        levels = pyramid(tissue_pixels(SIDE), (2.0,)) if ome else [tissue_pixels(SIDE)]
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "um"}
        with tifffile.TiffWriter(path, ome=ome) as file:
            for number, level in enumerate(levels):
                file.write(
                    level, photometric="rgb", compression=compression,
                    tile=(TILE_PX // 2, TILE_PX // 2) if tiled else None,
                    metadata=metadata if ome and not number else None,
                    subifds=len(levels) - 1 if ome and not number else None,
                    resolution=None if ome else (20_000, 20_000),
                    resolutionunit=None if ome else "CENTIMETER",
                )  # fmt: skip
        return path

    return write


def _plain(suffix: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        Image.fromarray(tissue_pixels(SIDE)).save(path.with_suffix(suffix))
        return path.with_suffix(suffix)

    return write


def _dicom(path: Path) -> Path:
    return write_series(path.parent, path.name, [tissue_pixels(SIDE)], mpp=0.5, others=())[0]


KINDS: dict[str, Callable[[Path], Path]] = {
    "svs": _svs,
    "ome-xml": _tiff("deflate", ome=True),
    "ome-lzw": _tiff("lzw", ome=True),
    "ome-jpeg2000": _tiff("jpeg2000", ome=True),
    "tiff-lzw": _tiff("lzw", ome=False),
    "strips": _tiff("deflate", ome=False, tiled=False),
    "jpeg": _plain(".jpg"),
    "png": _plain(".png"),
    "dicom": _dicom,
}


def main(kind: str, first: int, count: int, folder: Path) -> None:
    """Reads the mutations ``first`` to ``first + count`` of a kind of file."""
    path = KINDS[kind](folder / "original")
    original, places = path.read_bytes(), _header_places(kind, path)
    assert _flat_patches(path) == 0, "the original has flat patches"
    mutated = path.with_name(f"mutated{''.join(path.suffixes)}")
    path.unlink()
    limit = _address_space() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for seed in range(first, first + count):
        print(json.dumps({"seed": seed}), flush=True)
        mutated.write_bytes(_mutation(original, places, kind, seed))
        signal.alarm(MOST_SECONDS)  # ends the process, whatever it is in
        outcome: dict[str, Any] = {"seed": seed}
        try:
            outcome["flat"] = _flat_patches(mutated)
        except SlideError as error:
            outcome["refused"] = str(error)
        signal.alarm(0)
        print(json.dumps(outcome), flush=True)


def _flat_patches(path: Path) -> int:
    """Patches that can be read and show nothing, of all levels and of the thumbnail."""
    opened = open_slide_at(storage_path(path))
    with contextlib.closing(opened):
        reader = opened.reader
        thumbnail(reader, downsample=4.0)
        levels = range(len(reader.info.level_downsamples))
        return sum(_flat_of_level(reader, level) for level in levels)


def _flat_of_level(reader: SlideReader, level: int) -> int:
    own = reader.info.level_downsamples[level]
    corners = [
        (x, y)
        for y in range(0, int(reader.info.height / own) - _PATCH_PX + 1, _PATCH_PX)
        for x in range(0, int(reader.info.width / own) - _PATCH_PX + 1, _PATCH_PX)
    ]
    flat = 0
    for x, y in corners[:_MOST_PATCHES]:
        with contextlib.suppress(SlideError):
            pixels = reader.read(
                round(x * own), round(y * own), level=level, width=_PATCH_PX, height=_PATCH_PX
            )
            flat += bool(pixels.std(axis=(0, 1)).max() < _FLAT)
    return flat


def _mutation(data: bytes, places: np.ndarray[Any, Any], kind: str, seed: int) -> bytes:
    rng = random.Random(f"{kind} {seed}")
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = int(places[rng.randrange(len(places))])
        old = mutated[place]
        mutated[place] = rng.choice((0, 255, old ^ (1 << rng.randrange(8)), rng.randrange(256)))
    return bytes(mutated)


def _header_places(kind: str, path: Path) -> np.ndarray[Any, Any]:
    """Where the bytes of headers lie: all that is no pixel."""
    data = path.read_bytes()
    if kind == "ome-xml":
        start = data.index(b"<?xml")
        return np.arange(start, data.index(b"</OME>", start) + 6)
    if kind == "dicom":
        return np.arange(128, data.rindex(b"\xe0\x7f\x10\x00") + 12)
    if kind in ("jpeg", "png"):
        return np.arange(0, _JPEG_HEADER_BYTES if kind == "jpeg" else 64)
    is_header = np.ones(len(data), dtype=np.bool_)
    with tifffile.TiffFile(path) as tiff:
        pages = [*tiff.pages, *(page for level in tiff.series[0].levels for page in level.pages)]
        for page in pages:
            for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
                is_header[offset : offset + size] = False
    return np.flatnonzero(is_header)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
