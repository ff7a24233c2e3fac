"""HDF5 files whose datasets lie in other files: no byte of those is ever read."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from histodiff.artifacts import Kind
from histodiff.data_prep.index.coordinates import read_coordinates
from histodiff.data_prep.readers.containers import num_images, open_container
from histodiff.errors import ConfigError, SlideError
from histodiff.storage import storage_path
from histodiff.workflows.tile import TileConfig, tile
from tests.support.array_files import PCAM, random_patches, write_hdf5, write_pcam

SHAPE = (4, 16, 16, 3)
Write = Callable[[Path, str, Path, tuple[int, ...]], None]


def external_storage(path: Path, name: str, secret: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(path, "w") as file:
        stretch = [(str(secret), 0, int(np.prod(shape)))]
        file.create_dataset(name, shape, np.uint8, external=stretch)


def virtual_dataset(path: Path, name: str, secret: Path, shape: tuple[int, ...]) -> None:
    layout = h5py.VirtualLayout(shape, np.uint8)
    layout[:] = h5py.VirtualSource(str(secret), "x", shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset(name, layout)


def external_link(path: Path, name: str, secret: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(path, "w") as file:
        file[name] = h5py.ExternalLink(str(secret), "x")


def link_to_a_link(path: Path, name: str, secret: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("inside")["out"] = h5py.ExternalLink(str(secret), "/")
        file[name] = h5py.SoftLink("/inside/out/x")


WRITERS = (external_storage, virtual_dataset, external_link, link_to_a_link)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the user's, outside the patch set."""
    folder = tmp_path / "home"
    folder.mkdir()
    return write_hdf5(folder / "private.h5", x=random_patches(0, *SHAPE[:2]))


@pytest.mark.parametrize("write", WRITERS)
def test_container_that_points_to_another_file_is_refused(
    write: Write, secret: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    write(path, "x", secret, SHAPE)
    for use in (num_images, open_container):
        with pytest.raises(SlideError, match=r"a\.h5: dataset 'x' is .*new file"):
            use(storage_path(path))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("part", ["x", "y"])
def test_tile_pcam_that_points_to_another_file_is_one_line_and_no_artifact(
    write: Write, part: str, secret: Path, tmp_path: Path, site
) -> None:
    folder = tmp_path / "pcam"
    folder.mkdir()
    write_pcam(folder, "train", random_patches(1, *SHAPE[:2]), [0, 1, 0, 1])
    place = folder / f"{PCAM}_train_{part}.h5"
    place.unlink()
    write(place, part, secret, SHAPE if part == "x" else (4, 1, 1, 1))
    config = TileConfig.model_validate(
        {
            "name": "pcam", "version": "1", "patch_px": 16, "mpp": 1.0,
            "split": {"val": 0.0, "test": 0.0, "seed": 0},
            "sources": [{
                "type": "pcam", "path": str(folder), "mpp": 1.0, "fit": "crop", "splits": "given",
            }],
        }
    )  # fmt: skip
    with pytest.raises(ConfigError, match=f"{place.name}.*'{part}' is") as raised:
        tile(config, site)
    assert "\n" not in str(raised.value)
    assert not (site.storage_root / Kind.PATCHES).exists()


@pytest.mark.parametrize("write", WRITERS)
def test_coordinates_that_point_to_another_file_are_refused(
    write: Write, secret: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s_patches.h5"
    write(path, "coords", secret, (10, 2))
    with pytest.raises(SlideError, match="'coords' is"):
        read_coordinates(storage_path(path))
