"""The storage door on a local folder."""

import hashlib

import pytest

from histodiff.errors import ConfigError
from histodiff.storage import (
    check_writable,
    create_bytes,
    file_sizes,
    is_local,
    list_names,
    local_copy,
    remove_tree,
    sha256_of,
    storage_path,
    upload_tree,
    write_bytes,
)


def test_storage_path_local_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage_path("runs").path == str(tmp_path / "runs")
    assert storage_path(f"file://{tmp_path}").path == str(tmp_path)
    assert is_local(storage_path("runs"))


def test_storage_path_unknown_protocol_names_the_fix():
    with pytest.raises(ConfigError, match="give a path or an s3:// URL"):
        storage_path("gopher://somewhere/else")


def test_write_bytes_replaces_whole_files_and_leaves_no_scratch(tmp_path):
    root = storage_path(tmp_path)
    write_bytes(root / "a/b", b"one")
    write_bytes(root / "a/b", b"three")
    assert (tmp_path / "a" / "b").read_bytes() == b"three"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_create_bytes_only_the_first_wins(tmp_path):
    place = storage_path(tmp_path) / "plan.json"
    assert create_bytes(place, b"first")
    assert not create_bytes(place, b"second")
    assert place.read_bytes() == b"first"
    assert list_names(storage_path(tmp_path)) == ["plan.json"]


def test_listings_are_sorted_and_leave_out_unfinished_writes(tmp_path):
    root = storage_path(tmp_path)
    for name in ("b", "a/c", "a/.d.123.part"):
        write_bytes(root / name, b"xy")
    assert list_names(root) == ["a", "b"]
    assert file_sizes(root) == {"a/c": 2, "b": 2}
    assert list_names(root / "nothing") == []
    assert file_sizes(root / "nothing") == {}


def test_remove_tree_removes_all_and_nothing_is_no_error(tmp_path):
    write_bytes(storage_path(tmp_path) / "a/b", b"")
    remove_tree(storage_path(tmp_path) / "a")
    remove_tree(storage_path(tmp_path) / "a")
    assert not (tmp_path / "a").exists()


def test_sha256_is_of_the_bytes(tmp_path):
    write_bytes(storage_path(tmp_path) / "a", b"content")
    assert sha256_of(storage_path(tmp_path) / "a") == hashlib.sha256(b"content").hexdigest()


def test_local_copy_of_a_local_path_is_itself(tmp_path):
    with local_copy(storage_path(tmp_path)) as folder:
        assert folder == tmp_path


def test_upload_tree_copies_every_file(tmp_path):
    write_bytes(storage_path(tmp_path) / "from/a/b", b"1")
    upload_tree(tmp_path / "from", storage_path(tmp_path) / "to")
    assert file_sizes(storage_path(tmp_path) / "to") == {"a/b": 1}


def test_check_writable_below_a_file_names_root_and_fix(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be written"):
        check_writable(storage_path(tmp_path) / "file" / "runs")
    check_writable(storage_path(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
