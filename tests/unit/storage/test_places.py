"""Which text is a place, which a root, and that local names are literal."""

import pickle
from pathlib import Path

import pytest

from histodiff.cluster.site import NoRay, Site
from histodiff.config import parse_config
from histodiff.errors import ConfigError
from histodiff.storage import (
    below,
    file_sizes,
    list_names,
    read_bytes,
    remove_file,
    remove_tree,
    root_path,
    storage_path,
    write_bytes,
)
from tests.support.names import printable_names

NO_ROOTS = [
    "memory://x", "file://localhost/x", "file://server/x", "://x", "\\\\srv\\x", "C:\\runs",
    "D:/runs",
    "runs\nx", "runs\x1b[31m", "runs\0", "", " ", " runs", "s3:/bucket/x", "s3:bucket", "http:/h/x",
    "file:runs", "s3://", "s3:///x", "s3://b//a", "s3://b/a//c", "s3://b/../c", "s3://b/./c",
    "s3://key:secret@b/x", "https://user:pass@host/runs", "gs://b/x", "simplecache::s3://b/x",
    "zip://a.zip", "S3://bucket/x", "github://x", "https:///x",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_ROOTS)
def test_what_is_no_root_is_refused_in_one_line_and_makes_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused:
        root_path(text)
    assert str(refused.value).isprintable()
    with pytest.raises(ConfigError, match="site: root"):
        parse_config(Site, {"root": text, "ray": {"type": "none"}, "device": "cpu"}, source="site")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["runs", "./s3:/x", "/runs/a::b", "file:///runs", "s3://b", "s3://b/", "s3://b/a b/c?/"]
)
def test_roots_that_are_places_are_taken(text: str) -> None:
    assert root_path(text) == storage_path(text)
    assert Site(root=text, ray=NoRay(type="none"), device="cpu").storage_root == storage_path(text)


@pytest.mark.parametrize("name", printable_names(seed=3))
def test_names_join_and_travel_literally_on_every_kind_of_place(name: str) -> None:
    for base in ("/data/x", "s3://bucket/x", "s3://bucket"):
        path = storage_path(base) / name
        assert path.name == name
        assert path.path == f"{storage_path(base).path.rstrip('/')}/{name}"
        assert path.parent == storage_path(base)
        assert pickle.loads(pickle.dumps(path)).path == path.path
        assert storage_path(str(path)).path == path.path
        assert (path / "a/b").path == f"{path.path}/a/b"
    web = below(storage_path("https://host/x"), name)
    assert "?" not in str(web)
    assert "#" not in str(web)
    assert web.path == str(web) == storage_path(str(web)).path


def test_local_names_are_written_listed_and_removed_literally(tmp_path: Path) -> None:
    names, root = printable_names(seed=4), storage_path(tmp_path)
    for name in names:
        write_bytes(root / "files" / name, name.encode())
        write_bytes(root / "trees" / name / "a", b"")
    assert list_names(root / "files") == sorted(names)
    assert all(read_bytes(root / "files" / name) == name.encode() for name in names)
    for name in names[::2]:
        remove_file(root / "files" / name)
        remove_tree(root / "trees" / name)
    assert list_names(root / "files") == list_names(root / "trees") == sorted(names[1::2])
    assert sorted(file_sizes(root / "trees")) == sorted(f"{name}/a" for name in names[1::2])


def test_a_link_in_the_place_of_a_tree_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("kept")
    remove_tree(storage_path(tmp_path / "link"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").exists()


def test_nothing_is_written_to_a_web_address() -> None:
    with pytest.raises(ConfigError, match="web address"):
        write_bytes(storage_path("https://127.0.0.1:1/x"), b"")
