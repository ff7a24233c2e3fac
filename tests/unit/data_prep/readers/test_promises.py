"""Headers that promise more than there is, or than fits: that file is UNREADABLE, and soon.

Each is opened as a slide, as an image or as a container in this process, whose peak memory must
not grow by what the header says.
"""

import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pydicom
import pytest
import tifffile

from histodiff.artifacts import Artifact
from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.readers.containers import num_images, open_container
from histodiff.data_prep.readers.image_files import MAX_PIXELS, decode_image
from histodiff.data_prep.readers.opening import open_slide_at
from histodiff.errors import SkipReason, SlideError
from histodiff.storage import storage_path
from histodiff.workflows.tile import TileConfig, tile
from tests.support.dicom_slides import write_series
from tests.support.tiff_slides import tissue_pixels, write_svs

MOST_MORE_BYTES = 300 * 2**20
IMAGE_WIDTH, IMAGE_LENGTH, TILE_WIDTH, TILE_LENGTH = 256, 257, 322, 323


def tiff_that_says(path: Path, *, tiled: bool, compression: str = "lzw", **tags: int) -> Path:
    """A small TIFF whose tags of these names have other values."""
    tile_px = (128, 128) if tiled else None
    tifffile.imwrite(
        path, tissue_pixels(256), photometric="rgb", compression=compression, tile=tile_px,
        metadata=None, resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name, value in tags.items():
            tag = tiff.pages.first.tags[name]
            tag.overwrite(value, dtype="I")
    return path


def png_that_says(path: Path, width: int, height: int) -> Path:
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data)
    return path


def dicom_that_says(path: Path, **elements: int) -> Path:
    (written,) = write_series(path.parent, "a", [tissue_pixels(256)], mpp=0.5, others=())
    item = pydicom.dcmread(written)
    for name, value in elements.items():
        setattr(item, name, value)
    item.save_as(path, enforce_file_format=True)
    written.unlink()
    return path


HUGE = 2**31 - 1
SLIDES: dict[str, Callable[[Path], Path]] = {
    "image.tif": lambda path: tiff_that_says(path, tiled=True, ImageWidth=HUGE, ImageLength=HUGE),
    "tile.tif": lambda path: tiff_that_says(path, tiled=True, TileWidth=2**20, TileLength=2**20),
    "jpeg-tile.tif": lambda path: tiff_that_says(
        path, tiled=True, compression="jpeg", TileWidth=2**17, TileLength=2**17
    ),
    "j2k-tile.tif": lambda path: tiff_that_says(
        path, tiled=True, compression="jpeg2000", TileWidth=2**16, TileLength=2**16
    ),
    "strips.tif": lambda path: tiff_that_says(path, tiled=False, ImageWidth=HUGE),
    "tall.tif": lambda path: tiff_that_says(path, tiled=False, ImageLength=HUGE),
    "large.png": lambda path: png_that_says(path, 2**16, 2**16),
    "huge.png": lambda path: png_that_says(path, HUGE, HUGE),
    "frame.dcm": lambda path: dicom_that_says(path, Rows=65535, Columns=65535),
    "total.dcm": lambda path: dicom_that_says(
        path, TotalPixelMatrixRows=HUGE, TotalPixelMatrixColumns=HUGE
    ),
}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", SLIDES)
def test_a_slide_that_promises_too_much_is_unreadable(name: str, tmp_path: Path) -> None:
    path = SLIDES[name](tmp_path / name)
    before = peak_bytes()
    with pytest.raises(SlideError) as caught:
        open_slide_at(storage_path(path)).close()
    assert caught.value.reason is SkipReason.UNREADABLE
    assert peak_bytes() - before < MOST_MORE_BYTES


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", [name for name in SLIDES if not name.endswith(".dcm")])
def test_an_image_that_promises_too_much_is_unreadable(name: str, tmp_path: Path) -> None:
    path = SLIDES[name](tmp_path / name)
    before = peak_bytes()
    with pytest.raises(SlideError) as caught:
        decode_image(storage_path(path))
    assert caught.value.reason is SkipReason.UNREADABLE
    assert peak_bytes() - before < MOST_MORE_BYTES


def npy_that_says(path: Path) -> None:
    np.save(path, np.zeros((4, 8, 8, 3), np.uint8))
    data = path.read_bytes().replace(b"(4, 8, 8, 3)", b"(99999999999, 8, 8, 3)")
    path.write_bytes(data.replace(b" " * 10 + b"\n", b"\n"))


def h5_that_says(path: Path) -> None:
    with h5py.File(path, "w") as file:
        images = file.create_dataset("x", (10**9, 96, 96, 3), "u1", chunks=(1, 96, 96, 3))
        images[:4] = 7


def h5_of_large_images(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (4, 2**20, 2**20, 3), "u1", chunks=(1, 64, 64, 3))


def h5_of_large_chunks(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (2**20, 96, 96, 3), "u1", chunks=(2**17, 96, 96, 3))


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.npy", npy_that_says),
        ("few.h5", h5_that_says),
        ("large.h5", h5_of_large_images),
        ("chunks.h5", h5_of_large_chunks),
    ],
)
def test_a_container_that_promises_too_much_is_unreadable(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / name)
    before = peak_bytes()
    for use in (num_images, open_container):
        with pytest.raises(SlideError) as caught:
            use(storage_path(tmp_path / name))
        assert caught.value.reason is SkipReason.UNREADABLE
    assert peak_bytes() - before < MOST_MORE_BYTES


def tiled(folder: Path, site: Site) -> Artifact:
    values = {
        "name": "t", "version": "v1", "data": str(folder), "sources": [{"type": "slides"}],
        "mpp": 0.5, "patch_px": 64, "split": {"val": 0.0, "test": 0.0, "seed": 0},
    }  # fmt: skip
    return tile(parse_config(TileConfig, values, source="test"), site)


def test_one_such_file_does_not_end_the_run(tmp_path: Path, site: Site) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    write_svs(folder / "good.svs", [tissue_pixels(256)], mpp=0.5)
    for name, write in SLIDES.items():
        write(folder / name)
    index = PatchIndex.open(tiled(folder, site).path)
    status = {row["slide_id"]: row["status"] for row in index.slides.to_pylist()}
    assert status.pop("good") == "ok"
    assert set(status.values()) == {"UNREADABLE"}
    assert len(status) == len(SLIDES)


@pytest.mark.slow
def test_the_largest_image_that_is_decoded_takes_seven_bytes_a_pixel(tmp_path: Path) -> None:
    width, height = 20_000, MAX_PIXELS // 20_000
    packer = zlib.compressobj(1)
    row = b"\0" + bytes(range(200)) * (4 * width // 200)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    path = png_that_says(tmp_path / "a.png", width, height)
    data = path.read_bytes()
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    body = struct.pack(">I", len(packed)) + b"IDAT" + packed
    body += struct.pack(">I", zlib.crc32(b"IDAT" + packed))
    path.write_bytes(data[:start] + body + data[end:])
    before = peak_bytes()
    assert decode_image(storage_path(path)).shape == (height, width, 3)
    assert peak_bytes() - before < 7.5 * MAX_PIXELS
