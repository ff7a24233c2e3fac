"""Every name is literal: objects of odd names are the same objects in every operation."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from histodiff.artifacts import begin, open_artifact
from histodiff.storage import (
    StoragePath,
    create_bytes,
    file_sizes,
    list_names,
    local_copy,
    range_reader,
    read_bytes,
    read_ranges,
    remove_file,
    remove_tree,
    storage_path,
    write_bytes,
)
from tests.support.names import COUNT, KNOWN, printable_names
from tests.support.toy_commands import SourceConfig

pytestmark = pytest.mark.s3


def each(action: Callable[[str], object], names: list[str]) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(action, names))


def test_s3_objects_of_printable_names_are_written_read_and_listed(s3_root: StoragePath) -> None:
    names = printable_names(seed=11)
    assert len(names) == COUNT >= 200
    reader = range_reader(s3_root)

    def written_and_read(name: str) -> None:
        data, path = f"<{name}>".encode(), storage_path(f"{s3_root}/{name}")
        assert path.path == (s3_root / name).path
        assert path.name == name
        assert create_bytes(path, data)
        assert read_ranges(path, [(1, len(data) - 2)]) == [name.encode()]
        buffer = bytearray(len(data))
        reader.read_into(name, memoryview(buffer), offset=0)
        assert bytes(buffer) == data
        if name in KNOWN:  # these cost more requests each
            assert not create_bytes(path, b"of another")
            assert path.exists()
            assert read_bytes(path) == data
            with local_copy(path) as copy:
                assert copy.read_bytes() == data

    each(written_and_read, names)
    assert list_names(s3_root) == sorted(names)
    assert file_sizes(s3_root) == {name: len(f"<{name}>".encode()) for name in sorted(names)}


def test_s3_removal_takes_what_is_named_and_nothing_else(s3_root: StoragePath) -> None:
    names = printable_names(seed=12)
    gone, kept = names[::2], names[1::2]
    each(lambda name: write_bytes(s3_root / "files" / name, b""), names)
    each(lambda name: write_bytes(s3_root / "trees" / name / "a/b", b""), names)
    each(lambda name: remove_file(s3_root / "files" / name), gone)
    each(lambda name: remove_tree(s3_root / "trees" / name), gone)
    assert list_names(s3_root / "files") == sorted(kept)
    assert sorted(file_sizes(s3_root / "trees")) == sorted(f"{name}/a/b" for name in kept)


def test_s3_tree_that_is_removed_leaves_its_namesakes(s3_root: StoragePath) -> None:
    for name in ("exp?/a", "exp1/a", "exp?x/a", "exp/a"):
        write_bytes(s3_root / name, b"")
    remove_tree(s3_root / "exp?")
    remove_tree(s3_root / "exp")
    assert sorted(file_sizes(s3_root)) == ["exp1/a", "exp?x/a"]


@pytest.mark.parametrize("odd", ["exp?", "exp[1]", "exp*"])
def test_s3_rebuilding_under_an_odd_root_touches_no_other(s3_root: StoragePath, odd: str) -> None:
    for root in (s3_root / "exp1", s3_root / odd):
        with begin(root, SourceConfig(name="im", version="dev", text="1")) as draft:
            write_bytes(draft.path / "file", b"content")
            draft.finish({})
    with begin(s3_root / odd, SourceConfig(name="im", version="dev", text="2")) as draft:
        draft.finish({})
    plain = SourceConfig(name="im", version="dev", text="1").output
    assert open_artifact(s3_root / "exp1", plain).manifest.files.keys() == {"file"}
    assert open_artifact(s3_root / odd, plain).manifest.files == {}
    left = [name for name in file_sizes(s3_root) if "probe" in name or "/driver/" in name]
    assert left == []
