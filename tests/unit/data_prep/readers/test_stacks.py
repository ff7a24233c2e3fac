"""Files with more pictures than the one that is taken: their further pages are counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.readers.stacks import further_pages
from histodiff.storage import storage_path
from histodiff.workflows.tile import TileConfig, tile
from tests.support.tiff_slides import pyramid, tissue_pixels, write_generic_tiff, write_svs

PIXELS = tissue_pixels(256)


def stack(path: Path, count: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = np.stack([np.roll(PIXELS, 8 * number, axis=0) for number in range(count)])
    tifffile.imwrite(path, pages, photometric="rgb", **options)
    return path


def pages_of(path: Path) -> int:
    return further_pages(storage_path(path))


def warnings_of(data: Path, site: Site, **source: Any) -> dict[str, str]:
    values = {
        "name": "p", "version": "v1", "data": str(data), "sources": [source], "mpp": 1.0,
        "patch_px": 64, "split": {"val": 0.0, "test": 0.0, "seed": 0},
    }  # fmt: skip
    index = PatchIndex.open(tile(parse_config(TileConfig, values, source="test"), site).path)
    rows = index.slides.select(["slide_id", "warning"]).to_pylist()
    return {row["slide_id"]: row["warning"] for row in rows}


@pytest.mark.parametrize(
    "options", [{}, {"metadata": None}, {"ome": True}, {"tile": (128, 128), "compression": "jpeg"}]
)
def test_planes_of_a_stack_are_counted(options: dict[str, Any], tmp_path: Path) -> None:
    assert pages_of(stack(tmp_path / "a.tif", 5, **options)) == 4
    assert pages_of(stack(tmp_path / "b.tif", 1, **options)) == 0


def test_levels_labels_and_channels_are_no_further_pages(tmp_path: Path) -> None:
    levels = pyramid(PIXELS, (2, 4))
    assert pages_of(write_svs(tmp_path / "a.svs", levels, mpp=1.0)) == 0
    assert pages_of(write_generic_tiff(tmp_path / "b.tif", levels, mpp=None)) == 0
    planar = np.moveaxis(PIXELS, -1, 0)
    tifffile.imwrite(tmp_path / "c.ome.tif", planar, photometric="minisblack", ome=True)
    assert pages_of(tmp_path / "c.ome.tif") == 0


def test_frames_of_an_animation_are_counted_and_other_files_have_none(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(PIXELS, 8 * number, axis=0)) for number in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    assert pages_of(tmp_path / "a.webp") == 2
    frames[0].save(tmp_path / "b.jpg")
    (tmp_path / "c.tif").write_bytes(b"no TIFF")
    assert pages_of(tmp_path / "b.jpg") == pages_of(tmp_path / "c.tif") == 0


def test_stacks_in_a_bucket_are_counted(tmp_path: Path) -> None:
    remote = storage_path(f"memory://{tmp_path.name}") / "a.tif"
    remote.write_bytes(stack(tmp_path / "a.tif", 3).read_bytes())
    assert further_pages(remote) == 2


def test_tile_warns_of_pages_that_are_left_out(tmp_path: Path, site: Site) -> None:
    stack(tmp_path / "images" / "a.tif", 4)
    stack(tmp_path / "images" / "b.tif", 3)
    stack(tmp_path / "images" / "c.tif", 1)
    found = warnings_of(
        tmp_path / "images", site, type="image_folder", slides="folder", mpp=1.0, fit="crop"
    )
    (warning,) = found.values()
    assert warning.startswith("further pages are left out (5): a.tif has 3 after the first, as hav")


def test_tile_warns_of_planes_of_slides(tmp_path: Path, site: Site) -> None:
    stack(
        tmp_path / "a.tif", 3, tile=(128, 128), compression="jpeg", metadata=None,
        resolution=(10_000, 10_000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    assert "further pages are left out (2)" in warnings_of(tmp_path, site, type="slides")["a"]
