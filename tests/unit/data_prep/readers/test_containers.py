import pickle
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from histodiff.data_prep.readers.containers import (
    member_of,
    member_path,
    num_images,
    open_container,
)
from histodiff.data_prep.readers.image_decoder import ImageDecoder
from histodiff.errors import ConfigError, SkipReason, SlideError
from histodiff.storage import storage_path
from tests.support.array_files import Pixels, cut, random_patches, write_hdf5

PIXELS = random_patches(0, 11, 24)


def hdf5(folder: Path, pixels: Pixels) -> Path:
    return write_hdf5(folder / "a.h5", x=pixels, y=np.zeros((len(pixels), 1, 1, 1), np.uint8))


def plain(folder: Path, pixels: Pixels) -> Path:
    np.save(folder / "a.npy", pixels)
    return folder / "a.npy"


def fortran(folder: Path, pixels: Pixels) -> Path:
    return plain(folder, np.asfortranarray(pixels))


def float64(folder: Path, pixels: Pixels) -> Path:
    return plain(folder, pixels.astype(np.float64))


def zipped(folder: Path, pixels: Pixels) -> Path:
    parts = {"test_images": pixels[7:], "train_images": pixels[:4], "val_images": pixels[4:7]}
    np.savez_compressed(folder / "a.npz", **parts, train_labels=np.zeros((4, 1)))
    return folder / "a.npz"


def stored(folder: Path, pixels: Pixels) -> Path:
    np.savez(folder / "a.npz", train_images=pixels)
    return folder / "a.npz"


WRITERS = [hdf5, plain, fortran, float64, zipped, stored]
Write = Callable[[Path, Pixels], Path]


@pytest.mark.parametrize("write", WRITERS)
def test_container_gives_the_pixels_that_were_written(write: Write, tmp_path: Path) -> None:
    path = storage_path(write(tmp_path, PIXELS))
    container = open_container(path)
    assert len(container) == num_images(path) == len(PIXELS)
    for index in (10, 0, 4, 7, 3):
        found = container.read(index)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, PIXELS[index])
    container.close()


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("index", [-1, len(PIXELS)])
def test_container_index_out_of_range_is_unreadable(
    write: Write, index: int, tmp_path: Path
) -> None:
    container = open_container(storage_path(write(tmp_path, PIXELS)))
    with pytest.raises(SlideError, match=f"has no patch {index}, only 11") as caught:
        container.read(index)
    assert caught.value.reason is SkipReason.UNREADABLE
    container.close()


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.6, 0.99])
def test_container_that_is_cut_off_is_unreadable_and_named(
    write: Write, keep: float, tmp_path: Path
) -> None:
    path = cut(write(tmp_path, PIXELS), keep)
    with pytest.raises(SlideError, match=path.name) as caught:
        open_container(storage_path(path)).read(len(PIXELS) - 1)
    assert caught.value.reason is SkipReason.UNREADABLE
    assert "\n" not in str(caught.value)


def test_container_damaged_hdf5_chunk_costs_its_own_patch_only(tmp_path: Path) -> None:
    path = hdf5(tmp_path, PIXELS)
    with h5py.File(path) as file:
        chunk = file["x"].id.get_chunk_info(5)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(bytes(data))
    container = open_container(storage_path(path))
    with pytest.raises(SlideError, match=r"a\.h5#5"):
        container.read(5)
    np.testing.assert_array_equal(container.read(6), PIXELS[6])
    container.close()


def test_container_damaged_npz_member_costs_its_own_patches_only(tmp_path: Path) -> None:
    path = zipped(tmp_path, PIXELS)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("val_images.npy")
    data = bytearray(path.read_bytes())
    middle = member.header_offset + member.compress_size // 2
    data[middle : middle + 64] = b"\0" * 64
    path.write_bytes(bytes(data))
    container = open_container(storage_path(path))
    for index in (4, 6, 5):
        with pytest.raises(SlideError, match="val_images"):
            container.read(index)
    np.testing.assert_array_equal(container.read(0), PIXELS[0])
    np.testing.assert_array_equal(container.read(10), PIXELS[10])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((1, 8, 8, 3), 0.5), "float64 values"),
        (np.full((1, 8, 8, 3), np.nan), "float64 values"),
        (np.full((1, 8, 8, 3), 256.0), "float64 values"),
        (np.full((1, 8, 8, 3), -1, np.int16), "int16 values"),
        (np.full((1, 8, 8, 3), 1 + 0j), "complex128 values"),
        (np.full((1, 8, 8, 4), 1, np.uint8), "no array of images"),
        (np.full((8, 8), 1, np.uint8), "no array of images"),
        (np.full((1, 8, 8, 3), None), "Python objects"),
    ],
)
def test_container_of_what_is_no_8_bit_image_is_unreadable(
    values: Pixels, message: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with pytest.raises(SlideError, match=message):
        open_container(storage_path(tmp_path / "a.npy")).read(0)


@pytest.mark.parametrize("shape", [(5, 8, 9), (5, 8, 9, 1)])
def test_container_of_grey_images_gives_three_equal_channels(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    grey = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    container = open_container(storage_path(plain(tmp_path, grey)))
    expected = np.stack([grey[2].reshape(8, 9)] * 3, axis=-1)
    np.testing.assert_array_equal(container.read(2), expected)


def test_container_of_hdf5_with_two_sets_of_images_names_both(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "two.h5", left=PIXELS, right=PIXELS)
    with pytest.raises(SlideError, match=r"left.*right"):
        open_container(storage_path(path))


def test_container_npz_is_unpacked_to_disk_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    pixels = np.zeros((256, 128, 128, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(256)
    path = stored(tmp_path, pixels)
    tracemalloc.start()
    container = open_container(storage_path(path))
    values = [int(container.read(index)[0, 0, 0]) for index in (255, 0, 17)]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert values == [255, 0, 17]
    assert list(scratch.iterdir()) == []
    assert peak_bytes < pixels.nbytes / 2


def test_container_npz_without_room_to_unpack_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(tmp_path, PIXELS)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="set TMPDIR"):
        open_container(storage_path(path)).read(0)


@pytest.mark.parametrize("write", [hdf5, zipped, plain])
def test_container_on_a_remote_store_gives_the_same_pixels(write: Write, tmp_path: Path) -> None:
    local = write(tmp_path, PIXELS)
    remote = storage_path(f"memory://{tmp_path.name}") / local.name
    remote.write_bytes(local.read_bytes())
    container = open_container(remote)
    assert num_images(remote) == len(PIXELS)
    np.testing.assert_array_equal(container.read(9), PIXELS[9])
    container.close()


def test_member_path_sorts_like_the_array_and_round_trips() -> None:
    names = [member_path("folder/a.h5", index) for index in (0, 2, 10, 99_999)]
    assert names == sorted(names)
    assert [member_of(name) for name in names] == [
        ("folder/a.h5", index) for index in (0, 2, 10, 99_999)
    ]


@pytest.mark.parametrize("name", ["a.png", "slide#3.png", "a.h5", "a.h5#", "a.h5#x", "a.png#3"])
def test_member_of_a_plain_file_is_none(name: str) -> None:
    assert member_of(name) is None


def test_image_decoder_survives_pickling_while_containers_are_open(tmp_path: Path) -> None:
    for write in (hdf5, plain, zipped):
        write(tmp_path, PIXELS)
    folder = storage_path(tmp_path)
    decoder = ImageDecoder()
    names = [member_path(file, 3) for file in ("a.h5", "a.npy", "a.npz")]
    for name in names:
        np.testing.assert_array_equal(decoder.decode(folder, name), PIXELS[3])
    travelled = pickle.loads(pickle.dumps(decoder))
    for name in names:
        np.testing.assert_array_equal(travelled.decode(folder, name), PIXELS[3])
    decoder.close()
    np.testing.assert_array_equal(decoder.decode(folder, names[0]), PIXELS[3])


def test_image_decoder_with_more_containers_than_stay_open_reads_them_all(tmp_path: Path) -> None:
    sets = {f"{number}.h5": random_patches(number, 3, 16) for number in range(7)}
    for name, pixels in sets.items():
        write_hdf5(tmp_path / name, x=pixels)
    decoder = ImageDecoder()
    for index in range(3):
        for name, pixels in sets.items():
            found = decoder.decode(storage_path(tmp_path), member_path(name, index))
            np.testing.assert_array_equal(found, pixels[index])
    decoder.close()
