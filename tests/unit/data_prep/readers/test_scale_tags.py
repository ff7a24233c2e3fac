"""One rule says what a scale tag is worth, whichever reader meets it: 0.5 um/px, or a doubt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from histodiff.data_prep.readers.opening import open_slide_at
from histodiff.data_prep.readers.reader import SlideInfo
from histodiff.data_prep.readers.scale import LEAST_MPP, MOST_MPP, StatedScale, found_scale
from histodiff.storage import storage_path
from tests.support.tiff_slides import tissue_pixels

PIXELS = tissue_pixels(256)
CENTIMETRE, INCH = 3, 2
MEANT = {CENTIMETRE: 20_000.0, INCH: 50_800.0}
"""Pixels per unit at 0.5 um/px."""

Write = Callable[..., Path]


def info_of(path: Path) -> SlideInfo:
    opened = open_slide_at(storage_path(path))
    opened.close()
    return opened.reader.info


def tiff(compression: str, *, tiled: bool, planar: bool = False) -> Write:
    def write(path: Path, metadata: Any = None, **tags: Any) -> Path:
        pixels = np.moveaxis(PIXELS, -1, 0).copy() if planar else PIXELS
        with tifffile.TiffWriter(path, ome=metadata is not None) as file:
            file.write(
                pixels, photometric="rgb", compression=compression, metadata=metadata,
                planarconfig="separate" if planar else None,
                tile=(128, 128) if tiled else None, **tags,
            )  # fmt: skip
        return path

    return write


def png(path: Path, *, resolution: tuple[float, float], resolutionunit: int) -> Path:
    per_inch = resolution[0] * (2.54 if resolutionunit == CENTIMETRE else 1)
    Image.fromarray(PIXELS).save(path, dpi=(per_inch, per_inch))
    return path


def jpeg(path: Path, **tags: Any) -> Path:
    return png(path, **tags)


KINDS: dict[str, tuple[Write, str]] = {
    "jpeg-tiles": (tiff("jpeg", tiled=True), "tiff.XResolution"),
    "lzw-tiles": (tiff("lzw", tiled=True), "tiff.XResolution"),
    "zstd-tiles": (tiff("zstd", tiled=True), "tiff.XResolution"),
    "planar-tiles": (tiff("deflate", tiled=True, planar=True), "tiff.XResolution"),
    "jpeg2000-tiles": (tiff("jpeg2000", tiled=True), "tiff.XResolution"),
    "webp-tiles": (tiff("webp", tiled=True), "tiff.XResolution"),
    "lzw-strips": (tiff("lzw", tiled=False), "tiff.XResolution"),
    "jpeg-strips": (tiff("jpeg", tiled=False), "tiff.XResolution"),
    "png": (png, "image.dpi"),
    "jpeg": (jpeg, "image.dpi"),
}
SUFFIXES = {"png": ".png", "jpeg": ".jpg"}


@pytest.mark.parametrize("unit", [CENTIMETRE, INCH])
@pytest.mark.parametrize("kind", KINDS)
def test_resolution_tags_of_a_microscope_are_the_scale_in_every_reader(
    kind: str, unit: int, tmp_path: Path
) -> None:
    write, source = KINDS[kind]
    path = tmp_path / f"a{SUFFIXES.get(kind, '.tif')}"
    info = info_of(write(path, resolution=(MEANT[unit],) * 2, resolutionunit=unit))
    assert info.mpp_x == pytest.approx(0.5, rel=1e-4)
    assert info.mpp_y == pytest.approx(0.5, rel=1e-4)
    assert info.mpp_source == source


@pytest.mark.parametrize(("unit", "per_unit"), [(INCH, 72.0), (INCH, 300.0), (CENTIMETRE, 1.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_resolution_tags_of_a_printer_are_a_doubt_in_every_reader(
    kind: str, unit: int, per_unit: float, tmp_path: Path
) -> None:
    write, source = KINDS[kind]
    path = tmp_path / f"a{SUFFIXES.get(kind, '.tif')}"
    info = info_of(write(path, resolution=(per_unit, per_unit), resolutionunit=unit))
    assert (info.mpp_x, info.mpp_y, info.mpp_source) == (None, None, "none")
    assert source in info.scale_doubt


@pytest.mark.parametrize("compression", ["jpeg", "lzw", "deflate", "zstd", "jpeg2000", "webp"])
@pytest.mark.parametrize("tiled", [True, False])
def test_scale_of_ome_xml_counts_before_resolution_tags(
    compression: str, tiled: bool, tmp_path: Path
) -> None:
    if compression == "webp" and not tiled:
        pytest.skip("tifffile writes no such file")
    metadata = {
        "axes": "YXS", "PhysicalSizeX": 500.0, "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "\u00b5m",
    }  # fmt: skip
    write = tiff(compression, tiled=tiled)
    path = write(tmp_path / "a.ome.tif", metadata, resolution=(10, 10), resolutionunit=CENTIMETRE)
    info = info_of(path)
    assert (info.mpp_x, info.mpp_y) == (0.5, 0.25)
    assert info.mpp_source == "ome.PhysicalSizeX"


def test_ome_xml_without_a_length_leaves_the_resolution_tags(tmp_path: Path) -> None:
    metadata = {"axes": "YXS", "PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "pixel"}
    path = tiff("lzw", tiled=True)(
        tmp_path / "a.ome.tif", metadata, resolution=(20_000, 20_000), resolutionunit=CENTIMETRE
    )
    info = info_of(path)
    assert (info.mpp_x, info.mpp_source) == (0.5, "tiff.XResolution")


@pytest.mark.parametrize("unit", ["micron", "\\u00B5m", "um"])
def test_the_unit_of_imagej_gives_its_resolution_a_meaning(unit: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, imagej=True, resolution=(2, 2), metadata={"unit": unit})
    info = info_of(path)
    assert (info.mpp_x, info.mpp_y, info.mpp_source) == (0.5, 0.5, "imagej.unit")


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("compression", ["lzw", "zstd", "jpeg2000"])
def test_ome_pyramids_of_any_compression_have_their_levels(
    compression: str, levels: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "um"}
    options: dict[str, Any] = {
        "photometric": "rgb", "compression": compression, "tile": (64, 64)
    }  # fmt: skip
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(PIXELS, subifds=levels - 1, metadata=metadata, **options)
        for level in range(1, levels):
            file.write(PIXELS[:: 2**level, :: 2**level].copy(), subfiletype=1, **options)
    opened = open_slide_at(storage_path(path))
    assert opened.reader.info.level_downsamples == tuple(2.0**level for level in range(levels))
    for level in range(levels):
        wanted = PIXELS[:: 2**level, :: 2**level]
        height, width = wanted.shape[:2]
        read = opened.reader.read(0, 0, level=level, width=width, height=height)
        assert np.array_equal(read, wanted)
    opened.close()


@given(st.lists(st.tuples(st.floats(allow_nan=True), st.floats(allow_nan=True)), max_size=4))
def test_the_first_believed_statement_is_the_scale(stated: list[tuple[float, float]]) -> None:
    found = found_scale(StatedScale(x, y, f"place-{n}") for n, (x, y) in enumerate(stated))
    believed = [
        n
        for n, pair in enumerate(stated)
        if all(LEAST_MPP <= each <= MOST_MPP for each in pair)
    ]  # fmt: skip
    if believed:
        assert (found.mpp_x, found.mpp_y) == stated[believed[0]]
        assert (found.source, found.doubt) == (f"place-{believed[0]}", "")
    else:
        assert (found.mpp_x, found.mpp_y, found.source) == (None, None, "none")
        assert bool(found.doubt) == bool(stated)
