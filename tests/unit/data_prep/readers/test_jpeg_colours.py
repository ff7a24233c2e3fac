"""Colours of JPEG tiles whose page and own header say different things; tifffile is the oracle."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from histodiff.data_prep.readers.opening import open_slide_at
from histodiff.storage import storage_path
from tests.support.tiff_slides import Pixels

SIDE, TILE = 512, 128
_JFIF_END = 20
_RGB, _YCBCR = 2, 6
OME = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="512" SizeY="512" SizeC="3"'
    ' SizeZ="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5">'
    '<Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData/></Pixels></Image></OME>'
)
DESCRIPTIONS = {
    "generic": "plain",
    "aperio": "Aperio Image Library\r\n512x512 [0,0 512x512] (128x128)|AppMag = 20|MPP = 0.5",
    "ome": OME,
}


def tissue() -> Pixels:
    pixels = np.empty((SIDE, SIDE, 3), np.uint8)
    pixels[:] = (206, 140, 180)
    pixels[100:300, 50:400] = (96, 56, 120)
    return pixels


def ycbcr_tiles(pixels: Pixels, *, jfif: bool) -> Iterator[bytes]:
    """JPEG tiles in YCbCr, with the header that says so or without."""
    for top in range(0, SIDE, TILE):
        for left in range(0, SIDE, TILE):
            stream = io.BytesIO()
            tile = Image.fromarray(pixels[top : top + TILE, left : left + TILE])
            tile.save(stream, "JPEG", quality=95)
            data = stream.getvalue()
            assert data[6:10] == b"JFIF"
            yield data if jfif else data[:2] + data[_JFIF_END:]


def write(path: Path, kind: str, *, photometric: int, jfif: bool) -> Path:
    pixels = tissue()
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            ycbcr_tiles(pixels, jfif=jfif), shape=pixels.shape, dtype=np.uint8, tile=(TILE, TILE),
            photometric="rgb", compression="jpeg", description=DESCRIPTIONS[kind], metadata=None,
        )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite(photometric)
    return path


@pytest.mark.parametrize("kind", list(DESCRIPTIONS))
@pytest.mark.parametrize(
    ("photometric", "jfif"), [(_RGB, True), (_RGB, False), (_YCBCR, True), (_YCBCR, False)]
)
def test_jpeg_tiles_have_the_colours_that_tifffile_gives(
    kind: str, photometric: int, jfif: bool, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.tif", kind, photometric=photometric, jfif=jfif)
    opened = open_slide_at(storage_path(path))
    assert opened.reader.info.reader == "tiff"
    found = opened.reader.read(0, 0, level=0, width=SIDE, height=SIDE)
    opened.close()
    expected = tifffile.imread(path).astype(np.int64)
    assert np.abs(found - expected).max() <= 4  # the two decoders smooth chroma differently
    if jfif:
        assert np.abs(found - tissue().astype(np.int64))[16:64, 16:].max() <= 4
