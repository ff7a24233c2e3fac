"""Images smaller than a patch: padded or enlarged where the source says so, and recorded."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from PIL import Image

from histodiff.artifacts import Artifact
from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import PatchIndex, table_bytes
from histodiff.data_prep.index.reading import PatchReader
from histodiff.errors import ConfigError
from histodiff.storage import storage_path
from histodiff.workflows.tile import TileConfig, tile
from tests.support.array_files import random_patches, write_medmnist

SMALL = random_patches(0, 6, 27)


def config(data: Path, source: dict[str, Any], **changes: Any) -> TileConfig:
    values = {
        "name": "small", "version": "v1", "data": str(data), "sources": [source],
        "mpp": "unknown", "patch_px": 32, "allow_unknown_mpp": True,
        "split": {"val": 0.34, "test": 0.33, "group_by": "patient", "seed": 0},
    }  # fmt: skip
    return parse_config(TileConfig, {**values, **changes}, source="test")


def nuclei(fit: str, **changes: Any) -> dict[str, Any]:
    columns = {"path": "path", "label": "label", "patient_id": "patient_id"}
    return {"type": "csv", "columns": columns, "mpp": "unknown", "fit": fit, **changes}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six nuclei of 27 px, of three patients."""
    lines = ["path,label,patient_id"]
    for number, pixels in enumerate(SMALL):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'ab'[number % 2]},p{number // 2}")
    (tmp_path / "patches.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def pixels_of(artifact: Artifact) -> npt.NDArray[np.uint8]:
    index = PatchIndex.open(artifact.path)
    block = PatchReader(index).read(range(index.patches.num_rows))
    assert block.failures == {}
    return block.pixels


def mirrored(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """The definition of a reflection, one pixel at a time."""
    first = (side - len(pixels)) // 2
    last = len(pixels) - 1
    places = [last - abs(last - abs(place - first)) for place in range(side)]
    return pixels[np.ix_(places, places)]


def test_small_images_padded_are_themselves_in_a_mirrored_border(folder: Path, site: Site) -> None:
    artifact = tile(config(folder, nuclei("pad")), site)
    found = pixels_of(artifact)
    np.testing.assert_array_equal(found[:, 2:29, 2:29], SMALL)
    for position, pixels in enumerate(SMALL):
        np.testing.assert_array_equal(found[position], mirrored(pixels, 32))
    index = PatchIndex.open(artifact.path)
    assert set(index.slides["fit"].to_pylist()) == {"pad"}
    assert set(index.slides["enlargement"].to_pylist()) == {1.0}
    assert index.mpp is None


def test_small_images_enlarged_keep_their_picture_and_record_factor_and_scale(
    folder: Path, site: Site
) -> None:
    ramp = np.linspace(40, 200, 27).round().astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp[None, :, None], (27, 27, 3))).save(folder / "0.png")
    source = nuclei("enlarge", mpp=0.5)
    artifact = tile(config(folder, source, mpp=0.5 * 27 / 32), site)
    found = pixels_of(artifact)[0].astype(float)
    # a ramp stays a ramp: values at the centres of the new pixels, away from the border
    centres = (np.arange(32) + 0.5) * 27 / 32 - 0.5
    expected = 40 + centres * 160 / 26
    np.testing.assert_allclose(found[16, 3:-3, 0], expected[3:-3], atol=1.5)
    index = PatchIndex.open(artifact.path)
    assert set(index.slides["fit"].to_pylist()) == {"enlarge"}
    assert index.slides["enlargement"].to_pylist() == pytest.approx([32 / 27] * 6)
    assert index.patches["effective_mpp_x"].to_pylist() == pytest.approx([0.5 * 27 / 32] * 6)
    assert index.mpp == pytest.approx(0.5 * 27 / 32)


def test_small_images_of_another_scale_than_wanted_are_refused_when_enlarged(
    folder: Path, site: Site
) -> None:
    wanted = config(folder, nuclei("enlarge", mpp=0.5), mpp=0.5, allow_unknown_mpp=False)
    with pytest.raises(ConfigError, match=r"give patches of 0\.421875 um/px, not 0\.5"):
        tile(wanted, site)


@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_small_images_without_leave_are_too_small_and_told_the_way_out(
    fit: str, folder: Path, site: Site
) -> None:
    with pytest.raises(ConfigError, match=r"6 are TOO_SMALL, such as .*pad or.*enlarge"):
        tile(config(folder, nuclei(fit)), site)


def test_small_images_of_array_sets_are_padded_and_enlarged_too(tmp_path: Path, site: Site) -> None:
    arrays = {name: random_patches(seed, 4, 28) for seed, name in enumerate(("train", "val"))}
    members = {name: (pixels, [0, 1, 0, 1]) for name, pixels in arrays.items()}
    write_medmnist(tmp_path / "set.npz", **members)
    source = {"type": "medmnist", "splits": "given", "mpp": "unknown"}
    padded = pixels_of(tile(config(tmp_path, source | {"fit": "pad"}), site))
    every = np.concatenate([arrays["train"], arrays["val"]])
    centres = {found[2:30, 2:30].tobytes() for found in padded}
    assert centres == {pixels.tobytes() for pixels in every}
    enlarged = tile(config(tmp_path, source | {"fit": "enlarge"}, version="v2"), site)
    assert pixels_of(enlarged).shape == (8, 32, 32, 3)


def test_slides_have_no_fit() -> None:
    with pytest.raises(ConfigError, match="fit"):
        config(Path(), {"type": "slides", "fit": "pad"}, mpp=0.5)


def test_index_of_format_2_opens_and_gives_the_same_pixels(folder: Path, site: Site) -> None:
    artifact = tile(config(folder, nuclei("resize"), patch_px=24), site)
    before = pixels_of(artifact)
    slides = artifact.path / "slides.parquet"
    table = pq.read_table(io.BytesIO(slides.read_bytes()))
    slides.write_bytes(table_bytes(table.drop_columns(["fit", "enlargement"])))
    about = storage_path(str(artifact.path)) / "index.json"
    about.write_text(about.read_text().replace('"format": 3', '"format": 2'))
    np.testing.assert_array_equal(pixels_of(artifact), before)
    assert PatchIndex.open(artifact.path).slides["fit"].null_count == 6
