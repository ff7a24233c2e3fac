from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from histodiff.data_prep.index.coordinates import read_coordinates
from histodiff.errors import SkipReason, SlideError
from histodiff.storage import storage_path
from tests.support.array_files import cut

CORNERS = np.array([[0, 512], [512, 512], [1024, 40_000]], dtype=np.int64)
TRIDENT = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 32,
    "name": "slide-1",
    "savetodir": "/somewhere",
    "level0_width": 83_664,
    "level0_height": 64_892,
}
CLAM = {
    "patch_size": 256,
    "patch_level": 1,
    "downsample": (4.000123, 4.0),
    "downsampled_level_dim": np.array([20_000, 15_000]),
    "level_dim": (20_000, 15_000),
    "name": "slide-1",
    "save_path": "/somewhere",
}


def write(path: Path, attributes: dict[str, Any], corners: npt.NDArray[Any] = CORNERS) -> Path:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("coords", data=corners)
        for key, value in attributes.items():
            dataset.attrs[key] = value
    return path


def without(attributes: dict[str, Any], *keys: str, **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if key not in keys} | changes


def test_read_coordinates_of_trident(tmp_path: Path) -> None:
    grid = read_coordinates(storage_path(write(tmp_path / "slide-1_patches.h5", TRIDENT)))
    np.testing.assert_array_equal(grid.corners, CORNERS)
    assert grid.corners.dtype == np.int64
    assert (grid.side, grid.writer, grid.level0_size) == (512, "trident", (83_664, 64_892))


def test_read_coordinates_of_older_trident_states_no_size(tmp_path: Path) -> None:
    old = without(TRIDENT, "level0_width", "level0_height", patch_size_level0=512.0)
    grid = read_coordinates(storage_path(write(tmp_path / "a.h5", old)))
    assert (grid.side, grid.level0_size) == (512, None)


def test_read_coordinates_of_a_slide_without_tissue_is_an_empty_grid(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", TRIDENT, np.array([]))
    assert read_coordinates(storage_path(path)).corners.shape == (0, 2)


def test_read_coordinates_of_clam_scales_the_side_to_level_0(tmp_path: Path) -> None:
    path = write(tmp_path / "slide-1.h5", CLAM, CORNERS.astype(np.int32))
    grid = read_coordinates(storage_path(path))
    np.testing.assert_array_equal(grid.corners, CORNERS)
    assert (grid.side, grid.writer) == (1024, "clam")
    assert grid.level0_size is None


def test_read_coordinates_of_clam_at_level_0_states_the_size(tmp_path: Path) -> None:
    flat = without(CLAM, patch_level=0, downsample=(1.0, 1.0), level_dim=(8000, 6000))
    grid = read_coordinates(storage_path(write(tmp_path / "a.h5", flat)))
    assert (grid.side, grid.level0_size) == (256, (8000, 6000))


def test_read_coordinates_from_a_remote_store(tmp_path: Path) -> None:
    local = write(tmp_path / "a.h5", TRIDENT)
    remote = storage_path(f"memory://{tmp_path.name}") / "a.h5"
    remote.write_bytes(local.read_bytes())
    np.testing.assert_array_equal(read_coordinates(remote).corners, CORNERS)


@pytest.mark.parametrize(
    ("attributes", "corners", "message"),
    [
        ({}, CORNERS, "no attribute patch_size, patch_level, downsample"),
        (without(CLAM, "downsample"), CORNERS, "no attribute downsample as CLAM"),
        (without(CLAM, custom_downsample=2), CORNERS, "custom_downsample"),
        (without(CLAM, downsample=(4.0, 8.0)), CORNERS, "no square"),
        (without(CLAM, downsample=(0.0, 0.0)), CORNERS, "no square"),
        (without(CLAM, patch_size="large"), CORNERS, "patch_size 'large', not a whole number"),
        (without(TRIDENT, patch_size_level0=511.5), CORNERS, "patch_size_level0 .*511.5"),
        (without(TRIDENT, patch_size_level0=0), CORNERS, "patch_size_level0 .*below 1"),
        (without(TRIDENT, "patch_size"), CORNERS, "has patch_size None"),
        (without(TRIDENT, overlap=-1), CORNERS, "overlap .*below 0"),
        (without(TRIDENT, level0_width=0), CORNERS, "level0_width .*below 1"),
        (without(CLAM, patch_level=-1), CORNERS, "patch_level .*below 0"),
        (TRIDENT, CORNERS + 0.5, "'coords' is float64"),
        (TRIDENT, CORNERS[:, :1], r"'coords' is int64 \(3, 1\)"),
        (TRIDENT, CORNERS - 1, "negative corners"),
    ],
)
def test_read_coordinates_that_make_no_sense_name_the_file_and_what_is_wrong(
    attributes: dict[str, Any], corners: npt.NDArray[Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "bad.h5", attributes, corners)
    with pytest.raises(SlideError, match=rf"bad\.h5: .*{message}") as caught:
        read_coordinates(storage_path(path))
    assert caught.value.reason is SkipReason.UNREADABLE
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_read_coordinates_that_are_cut_off_is_unreadable(keep: float, tmp_path: Path) -> None:
    path = cut(write(tmp_path / "a.h5", TRIDENT), keep)
    with pytest.raises(SlideError, match=r"a\.h5: cannot be read"):
        read_coordinates(storage_path(path))


def test_read_coordinates_of_features_alone_names_what_there_is(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.zeros((3, 8))
    with pytest.raises(SlideError, match=r"no dataset 'coords', only \['features'\]"):
        read_coordinates(storage_path(tmp_path / "a.h5"))


def test_read_coordinates_of_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"gone\.h5: cannot be read"):
        read_coordinates(storage_path(tmp_path / "gone.h5"))
