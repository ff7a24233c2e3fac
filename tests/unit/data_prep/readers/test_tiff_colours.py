"""Colours in every arrangement: as they are, or refused with the reason, by all readers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from histodiff.data_prep.readers.image_files import decode_image
from histodiff.data_prep.readers.opening import open_slide_at
from histodiff.errors import SkipReason, SlideError
from histodiff.storage import storage_path
from tests.support.tiff_slides import tissue_pixels

PIXELS = tissue_pixels(256)
PLANES = np.moveaxis(PIXELS, -1, 0).copy()
RED, GREEN, BLUE = (-16776961, 16711935, 65535)
"""As OME writes them: RGBA in a signed number."""


def as_slide(path: Path) -> npt.NDArray[np.uint8]:
    opened = open_slide_at(storage_path(path))
    info = opened.reader.info
    pixels = opened.reader.read(0, 0, level=0, width=info.width, height=info.height).copy()
    opened.close()
    return pixels


def as_image(path: Path) -> npt.NDArray[np.uint8]:
    return decode_image(storage_path(path))


Read = Callable[[Path], npt.NDArray[np.uint8]]
READS = pytest.mark.parametrize("read", [as_slide, as_image])
TILES = pytest.mark.parametrize("tile", [(64, 64), None], ids=["tiles", "strips"])


def three_grey_pages(path: Path, channel: dict[str, Any] | None = None, **options: Any) -> Path:
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "um"}
    if channel:
        metadata["Channel"] = channel
    tifffile.imwrite(path, PLANES, ome=True, photometric="minisblack", metadata=metadata, **options)
    return path


@READS
@TILES
@pytest.mark.parametrize("compression", ["deflate", None, "jpeg2000"])
def test_three_grey_ome_pages_are_red_green_and_blue(
    compression: str | None, tile: Any, read: Read, tmp_path: Path
) -> None:
    path = three_grey_pages(tmp_path / "a.ome.tif", tile=tile, compression=compression)
    assert np.array_equal(read(path), PIXELS)


@READS
@pytest.mark.parametrize(
    "channel",
    [
        {"Name": ["B", "R", "G"]},
        {"Name": ["blue", "red", "green"]},
        {"Color": [BLUE, RED, GREEN]},
        {"Name": ["C:0", "C:1", "C:2"], "Color": [BLUE, RED, GREEN]},
    ],
)
def test_named_channels_go_where_their_names_or_colours_say(
    channel: dict[str, Any], read: Read, tmp_path: Path
) -> None:
    path = three_grey_pages(tmp_path / "a.ome.tif", channel, tile=(64, 64))
    assert np.array_equal(read(path), PIXELS[..., [1, 2, 0]])


@READS
@TILES
def test_channels_called_otherwise_are_refused(tile: Any, read: Read, tmp_path: Path) -> None:
    channel = {"Name": ["DAPI", "FITC", "Cy5"]}
    path = three_grey_pages(tmp_path / "a.ome.tif", channel, tile=tile)
    with pytest.raises(SlideError, match="DAPI") as caught:
        read(path)
    assert caught.value.reason is SkipReason.UNREADABLE


@READS
@TILES
def test_planes_of_one_page_are_rgb(tile: Any, read: Read, tmp_path: Path) -> None:
    for name, ome in (("a.ome.tif", True), ("b.tif", False)):
        path = tmp_path / name
        tifffile.imwrite(
            path, PLANES, ome=ome, photometric="rgb", planarconfig="separate", tile=tile,
            compression="lzw", metadata={"axes": "SYX"} if ome else None,
        )  # fmt: skip
        assert np.array_equal(read(path), PIXELS), name


@TILES
def test_grey_pages_that_nothing_calls_colours_are_refused(tile: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for plane in PLANES:
            file.write(plane, photometric="minisblack", tile=tile, metadata=None)
    with pytest.raises(SlideError, match="grey pages"):
        as_slide(path)


def _tiff(path: Path, pixels: Any, **options: Any) -> None:
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, **options)


DEEP: dict[str, Callable[[Path, Any], None]] = {
    "tiles.tif": lambda path, pixels: _tiff(path, pixels, tile=(64, 64), compression="lzw"),
    "strips.tif": lambda path, pixels: _tiff(path, pixels),
    "j2k.tif": lambda path, pixels: _tiff(path, pixels, tile=(64, 64), compression="jpeg2000"),
    "ome.ome.tif": lambda path, pixels: tifffile.imwrite(
        path, pixels, ome=True, photometric="rgb", tile=(64, 64), compression="zstd"
    ),
    "pages.ome.tif": lambda path, pixels: tifffile.imwrite(
        path, np.moveaxis(pixels, -1, 0).copy(), ome=True, photometric="minisblack",
        metadata={"axes": "CYX"}, tile=(64, 64),
    ),
    "rgb.png": lambda path, pixels: path.write_bytes(imagecodecs.png_encode(pixels)) and None,
    "grey.png": lambda path, pixels: path.write_bytes(
        imagecodecs.png_encode(pixels[..., 0].copy())
    ) and None,
}  # fmt: skip


@READS
@pytest.mark.parametrize("factor", [257, 16], ids=["16-bit", "12-bit"])
@pytest.mark.parametrize("name", DEEP)
def test_more_than_eight_bits_are_refused_by_all(
    name: str, factor: int, read: Read, tmp_path: Path
) -> None:
    path = tmp_path / name
    DEEP[name](path, PIXELS.astype(np.uint16) * factor)
    with pytest.raises(SlideError, match="8 bits") as caught:
        read(path)
    assert caught.value.reason is SkipReason.UNREADABLE


def test_a_jpeg_has_the_pixels_of_pillow(tmp_path: Path) -> None:
    for subsampling in (0, 1, 2):
        path = tmp_path / f"{subsampling}.jpg"
        Image.fromarray(PIXELS).save(path, quality=80, subsampling=subsampling)
        with Image.open(path) as image:
            assert np.array_equal(as_image(path), np.asarray(image.convert("RGB")))


def test_ome_xml_that_names_another_file_does_not_read_it(tmp_path: Path) -> None:
    secret, bait = tmp_path / "secret.ome.tif", tmp_path / "bait.ome.tif"
    three_grey_pages(secret)
    with tifffile.TiffFile(three_grey_pages(bait)) as tiff:
        pages = tiff.ome_metadata
    assert pages is not None
    tifffile.imwrite(bait, PLANES * 0 + 7, ome=True, photometric="minisblack")
    head, tail = pages.split("<TiffData", 1)
    link = f'FirstC="0" IFD="0" PlaneCount="3"><UUID FileName="{secret.name}">urn:uuid:1</UUID>'
    tail = tail.split("/>", 1)[1].replace("</TiffData>", "")
    tifffile.tiffcomment(bait, f"{head}<TiffData {link}</TiffData>{tail}".encode())
    try:
        found = as_slide(bait)
    except SlideError:
        return
    assert set(np.unique(found)) == {7}
