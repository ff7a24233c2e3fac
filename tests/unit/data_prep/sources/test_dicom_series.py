"""One DICOM series is one slide, wherever it lies; its pixels in another container are found."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from histodiff.artifacts import Artifact
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.errors import ConfigError
from tests.support.dicom_slides import jpeg_tiles, write_series
from tests.support.range_server import range_server
from tests.support.remote_slides import assert_same_patches, pixels_of, tile_config, tiled
from tests.support.tiff_slides import TILE_PX, pyramid, tissue_pixels

MPP = 0.5
SIDE = 3 * TILE_PX
SOURCE = {"type": "slides"}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of two levels each, with labels and an overview."""
    folder = tmp_path_factory.mktemp("series")
    for number, others in enumerate((("LABEL",), ("LABEL", "OVERVIEW"))):
        levels = pyramid(tissue_pixels(SIDE, seed=number), (2.0,))
        write_series(folder, f"P{number}", levels, mpp=MPP, others=others)
    return folder


def index_of(folder: Path | str, root: Path, **changes: object) -> Artifact:
    return tiled(tile_config(str(folder), sources=[SOURCE], **changes), root)


def test_a_series_of_many_files_is_one_slide_with_all_its_levels(
    series: Path, tmp_path: Path
) -> None:
    artifact = index_of(series, tmp_path)
    index = PatchIndex.open(artifact.path)
    assert index.slides["slide_id"].to_pylist() == ["P0-0", "P1-0"]
    assert index.slides["level_downsamples"].to_pylist() == [[1.0, 2.0]] * 2
    assert set(index.patches["level"].to_pylist()) == {1}  # 1 um/px is the second file
    (trap,) = (t["what"] for t in artifact.manifest.contents["traps"] if "DICOM" in t["what"])
    assert "(3): label (2), overview (1)" in trap
    assert pixels_of(artifact).std() > 5


def test_a_series_on_the_web_gives_the_content_and_pixels_of_a_local_one(
    series: Path, tmp_path: Path
) -> None:
    with range_server(series) as served:
        remote = index_of(served.url, tmp_path / "web")
        assert_same_patches(remote, index_of(series, tmp_path / "local"))


def test_levels_belong_to_the_identity_of_a_slide_and_names_do_not(
    series: Path, tmp_path: Path
) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    for folder in (same, other):
        folder.mkdir()
        for file in series.glob("*.dcm"):
            name = file.name.replace("P0-1", "zz")
            (folder / name).write_bytes(file.read_bytes())
    levels = [tissue_pixels(SIDE, seed=9), tissue_pixels(SIDE // 2, seed=9)]
    changed = write_series(tmp_path, "changed", levels, mpp=MPP)[1]
    (other / "zz.dcm").write_bytes(changed.read_bytes())
    hashes = [
        PatchIndex.open(index_of(folder, tmp_path / f"runs-{folder.name}").path)
        .slides["content_hash"]
        .to_pylist()
        for folder in (series, same, other)
    ]
    assert hashes[0] == hashes[1]
    assert hashes[0][0] != hashes[2][0]
    assert hashes[0][1] == hashes[2][1]


def test_a_level_that_vanished_is_a_failure_of_the_patches_and_never_another_level(
    series: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    for file in series.glob("P0-*.dcm"):
        (folder / file.name).write_bytes(file.read_bytes())
    index = PatchIndex.open(index_of(folder, tmp_path / "runs").path)
    (folder / "P0-1.dcm").unlink()
    reader = PatchReader(index)
    block = reader.read(range(index.patches.num_rows))
    reader.close()
    assert len(block.failures) == index.patches.num_rows
    assert all("P0-1.dcm" in line for line in block.failures.values())


def test_a_folder_of_labels_alone_is_no_source_of_slides(tmp_path: Path) -> None:
    paths = write_series(tmp_path, "a", [tissue_pixels(TILE_PX)], mpp=MPP)
    paths[0].unlink()
    with pytest.raises(ConfigError, match=r"label \(1\)"):
        index_of(tmp_path, tmp_path / "runs")


def test_slides_with_the_same_level_0_are_duplicates_whatever_contains_them(
    tmp_path: Path,
) -> None:
    folder, pixels = tmp_path / "slides", tissue_pixels(SIDE)
    folder.mkdir()
    tiles = jpeg_tiles(pixels)
    write_series(folder, "dicom", [pixels], mpp=MPP, frames=tiles)
    with tifffile.TiffWriter(folder / "tiff.tif") as file:
        file.write(
            iter(tiles), shape=pixels.shape, dtype=np.uint8, tile=(TILE_PX, TILE_PX),
            photometric="ycbcr", compression="jpeg", subsampling=(2, 1), metadata=None,
            resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
        )  # fmt: skip
    (folder / "other.tif").write_bytes((folder / "tiff.tif").read_bytes() + b"\0")
    write_series(folder, "else", [tissue_pixels(SIDE, seed=4)], mpp=MPP)
    artifact = index_of(folder, tmp_path / "runs")
    groups = PatchIndex.open(artifact.path).slides.select(["slide_id", "duplicate_group"])
    found = {row["slide_id"]: row["duplicate_group"] for row in groups.to_pylist()}
    assert found["else-0"] is None
    assert found["dicom-0"] is not None
    assert found["dicom-0"] == found["tiff"] == found["other"]
    counts = json.loads((artifact.path / "duplicates.json").read_text())
    assert counts["slides"]
