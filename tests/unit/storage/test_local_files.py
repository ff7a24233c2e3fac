"""Folders with links, pipes and what may not be read, through the storage door."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histodiff.storage import FoundFiles, NoFile, file_sizes, found_files, storage_path, told_apart


def found(folder: Path, **options: bool) -> FoundFiles:
    return found_files(storage_path(folder), suffixes=(".tif",), **options)


def put(path: Path, size: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


@pytest.fixture
def disks(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of slides, and a store on another disk that its links lead to."""
    slides, store = tmp_path / "slides", tmp_path / "store"
    put(slides / "here" / "a.tif", 1)
    put(store / "one.tif", 2)
    put(store / "batch" / "two.tif", 3)
    return slides, store


def test_links_to_files_and_folders_are_read_under_their_own_names(disks) -> None:
    slides, store = disks
    (slides / "here" / "linked.tif").symlink_to(store / "one.tif")
    (slides / "batch").symlink_to(store / "batch")
    assert found(slides).sizes == {"batch/two.tif": 3, "here/a.tif": 1, "here/linked.tif": 2}
    assert found(slides).left_out == {}
    (slides.parent / "link").symlink_to(slides)
    assert found(slides.parent / "link") == found(slides)


def test_links_in_a_circle_end_and_are_named(disks) -> None:
    slides, store = disks
    (slides / "here" / "up").symlink_to("..")
    (slides / "here" / "self").symlink_to("self")
    (slides / "out").symlink_to(store)
    (store / "back").symlink_to(slides.parent)
    assert found(slides).sizes == {"here/a.tif": 1, "out/batch/two.tif": 3, "out/one.tif": 2}
    assert found(slides).left_out == {
        "here/self": NoFile.DEAD_END,
        "here/up": NoFile.READ_BEFORE,
        "out/back/slides": NoFile.READ_BEFORE,
        "out/back/store": NoFile.READ_BEFORE,
    }


def test_a_folder_that_two_links_lead_to_is_read_once(disks) -> None:
    slides, store = disks
    (slides / "second").symlink_to(store / "batch")
    (slides / "first").symlink_to(store / "batch")
    (slides / "again").symlink_to(slides / "here")
    assert list(found(slides).sizes) == ["first/two.tif", "here/a.tif"]
    assert list(found(slides).left_out) == ["again", "second"]


def test_links_to_nothing_pipes_and_sockets_are_named(disks, monkeypatch) -> None:
    slides, _ = disks
    monkeypatch.chdir(slides)  # the address of a socket takes 107 bytes
    (slides / "broken.tif").symlink_to("/nowhere/x.tif")
    os.mkfifo(slides / "pipe.tif")
    (slides / "linked_pipe.tif").symlink_to(slides / "pipe.tif")
    (slides / "device.tif").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.tif")
    assert list(found(slides).sizes) == ["here/a.tif"]
    assert found(slides).left_out == {
        "broken.tif": NoFile.DEAD_END,
        **dict.fromkeys(
            ("device.tif", "linked_pipe.tif", "pipe.tif", "socket.tif"), NoFile.SPECIAL
        ),
    }


def test_other_endings_are_listed_apart_and_folders_only_where_asked(disks) -> None:
    slides, _ = disks
    put(slides / "notes.txt")
    put(slides / "here" / "b.GIF")
    put(slides / "B.TIF", 5)
    assert found(slides).others == ("here/b.GIF", "notes.txt")
    flat = found(slides, recursive=False)
    assert (flat.sizes, flat.others) == ({"B.TIF": 5}, ("notes.txt",))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(disks) -> None:
    slides, _ = disks
    put(slides / "closed" / "b.tif").parent.chmod(0)
    try:
        assert found(slides).left_out == {"closed": NoFile.FORBIDDEN}
    finally:
        (slides / "closed").chmod(0o700)


def test_what_is_no_folder_has_no_files(disks) -> None:
    slides, store = disks
    assert found(slides / "nothing") == FoundFiles()
    assert found(store / "one.tif") == FoundFiles()


@given(st.data())
def test_every_file_is_found_once_however_folders_are_linked(tmp_path_factory, data) -> None:
    """Random trees with random links: nothing twice, nothing lost that a walk would reach."""
    base = tmp_path_factory.mktemp("tree")
    folders = [base]
    for number in range(data.draw(st.integers(1, 6))):
        folder = data.draw(st.sampled_from(folders)) / f"f{number}"
        put(folder / f"{number}.tif")
        folders.append(folder)
    for number in range(data.draw(st.integers(0, 5))):
        link = data.draw(st.sampled_from(folders)) / f"l{number}"
        link.symlink_to(data.draw(st.sampled_from(folders)))
    root = data.draw(st.sampled_from(folders))
    result = found(root)
    real = [os.path.realpath(root / name) for name in result.sizes]
    assert len(set(real)) == len(real)
    assert set(real) == {os.path.realpath(path) for path in _reached(root)}


def _reached(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Every file that can be reached, by walking all ways that are no circle."""
    if os.path.realpath(folder) in above:
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _reached(path, (*above, os.path.realpath(folder)))
        elif path.suffix == ".tif":
            yield path


def test_failures_that_were_told_apart_stay_what_they_are(tmp_path: Path) -> None:
    path = storage_path(tmp_path / "gone.tif")
    with pytest.raises(FileNotFoundError) as caught, told_apart(path), told_apart(path):
        path.read_bytes()
    assert caught.value.__cause__ is not caught.value


def test_file_sizes_follows_links_too(disks) -> None:
    slides, store = disks
    (slides / "batch").symlink_to(store / "batch")
    assert file_sizes(storage_path(slides)) == {"batch/two.tif": 3, "here/a.tif": 1}
