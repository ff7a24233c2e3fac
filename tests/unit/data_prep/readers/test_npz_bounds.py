"""An ``.npz`` unpacks to what its headers say, or is not unpacked."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from histodiff.data_prep.readers.containers import num_images, open_container
from histodiff.errors import SlideError
from histodiff.storage import storage_path


def write_npz(path: Path, *, extra_bytes: int) -> None:
    """Four images, whose member has more bytes than its header says."""
    array = io.BytesIO()
    np.save(array, np.zeros((4, 8, 8, 3), np.uint8))
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("train_images.npy", "w") as member,
    ):
        member.write(array.getvalue())
        for _ in range(extra_bytes // 2**20):
            member.write(bytes(2**20))


def test_npz_that_would_unpack_to_more_than_its_header_says_is_unreadable(tmp_path: Path) -> None:
    write_npz(tmp_path / "bomb.npz", extra_bytes=256 * 2**20)
    assert (tmp_path / "bomb.npz").stat().st_size < 2**20
    path = storage_path(tmp_path / "bomb.npz")
    for opened in (num_images, open_container):
        with pytest.raises(SlideError, match="its header says"):
            opened(path)


def test_npz_of_the_size_that_its_header_says_is_read(tmp_path: Path) -> None:
    write_npz(tmp_path / "good.npz", extra_bytes=0)
    container = open_container(storage_path(tmp_path / "good.npz"))
    assert container.read(3).shape == (8, 8, 3)
    container.close()
