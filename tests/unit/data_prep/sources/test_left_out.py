"""Folders as they are after some days of work: what is left out of them is counted and named."""

import os
from pathlib import Path
from typing import Any

import pytest

from histodiff.config import parse_config
from histodiff.data_prep.sources.finding import find_inputs
from histodiff.data_prep.sources.inputs import MET_HERE, Inputs
from histodiff.data_prep.sources.left_out import is_foreign
from histodiff.errors import ConfigError
from histodiff.storage import storage_path
from histodiff.workflows.tile import TileConfig
from tests.support.range_server import range_server

SLIDES = {"type": "slides", "recursive": True}
IMAGES = {"type": "image_folder", "labels": "folder", "mpp": 1.0, "fit": "crop"}
BREAKHIS = {"type": "breakhis", "magnification": 40, "fold": None, "mpp": 1.0, "fit": "crop"}


def inputs(data: Path | str, source: dict[str, Any]) -> Inputs:
    values = {
        "name": "p", "version": "v1", "data": str(data), "sources": [source], "mpp": 1.0,
        "patch_px": 64, "split": {"val": 0.0, "test": 0.0, "seed": 0},
    }  # fmt: skip
    config = parse_config(TileConfig, values, source="test")
    return find_inputs(config.data, config.sources)


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(found: Inputs) -> list[str]:
    images = [image.path for part in found.image_sets for image in part.images]
    return [slide.slide_id for slide in found.slides] + images


def said(found: Inputs) -> list[str]:
    assert {trap.source for trap in found.traps} <= {MET_HERE}
    return [trap.what for trap in found.traps]


FOREIGN = (
    ".ipynb_checkpoints", "@eaDir", ".Trash-1000", "$RECYCLE.BIN", ".snapshot", "__MACOSX",
    "$Recycle.Bin", "System Volume Information", "lost+found", "#recycle", "@Recycle", "~snapshot",
)  # fmt: skip


@pytest.mark.parametrize("folder", FOREIGN)
@pytest.mark.parametrize("source", [SLIDES, IMAGES], ids=["slides", "images"])
def test_hidden_and_foreign_folders_are_left_out_and_counted(
    folder: str, source: dict[str, Any], tmp_path: Path
) -> None:
    put(tmp_path / "tumour" / "a.png", tmp_path / folder / "b.png")
    put(tmp_path / folder / "deep" / "c.png", tmp_path / "tumour" / folder / "d.png")
    found = inputs(tmp_path, source)
    assert [name.removeprefix("tumour/") for name in names(found)] in (["a"], ["a.png"])
    (line,) = said(found)
    assert "in hidden or foreign places are left out (3): " in line
    assert f"{folder} (3)" in line


def test_names_that_only_look_foreign_are_data() -> None:
    for name in ("a.b/c.png", "snapshot/a.png", "recycle/a.png", "@tumour/a.png", "#1/a.png"):
        assert not is_foreign(name)
    assert is_foreign("tumour/._a.png")


def test_breakhis_and_array_files_have_no_foreign_copies(tmp_path: Path) -> None:
    name = "SOB_B_A-14-22549AB-40-001.png"
    put(tmp_path / "b" / name, tmp_path / "b" / "@eaDir" / name)
    found = inputs(tmp_path / "b", BREAKHIS)
    assert names(found) == [name]
    assert said(found) == ["images in hidden or foreign places are left out (1): @eaDir (1)."]


def test_images_of_other_kinds_are_counted_by_their_ending(tmp_path: Path) -> None:
    put(
        *(tmp_path / "a" / name for name in ("a.png", "b.gif", "c.GIF", "d.jfif", "e.jp2", "f.svs"))
    )
    put(tmp_path / "a" / "notes.txt", tmp_path / ".trash" / "g.gif")
    (line,) = said(inputs(tmp_path, IMAGES))
    assert line.startswith("files of kinds that are not taken as images are left out (5):")
    assert ".gif (2), .jfif (1), .jp2 (1), .svs (1);" in line
    put(tmp_path / "s" / "a.svs", tmp_path / "s" / "b.isyntax", tmp_path / "s" / "c.webp")
    (line,) = said(inputs(tmp_path / "s", SLIDES))
    assert ".isyntax (1), .webp (1);" in line
    assert said(inputs(tmp_path / "s", SLIDES | {"pattern": "a*"})) == []


def test_linked_classes_and_batches_are_read_and_bad_links_named(tmp_path: Path) -> None:
    put(tmp_path / "set" / "A" / "a.png", tmp_path / "store" / "B" / "b.png")
    (tmp_path / "set" / "B").symlink_to(tmp_path / "store" / "B")
    (tmp_path / "set" / "A" / "loop").symlink_to("..")
    (tmp_path / "set" / "A" / "gone.png").symlink_to("/nowhere/x.png")
    (tmp_path / "set" / "@eaDir").symlink_to("/nowhere")
    os.mkfifo(tmp_path / "set" / "A" / "pipe.png")
    for source in (IMAGES, SLIDES):
        found = inputs(tmp_path / "set", source)
        assert len(names(found)) == 2
        (line,) = said(found)
        assert line == (
            "what is no file is left out (3): A/gone.png is a link to nothing, A/loop is a link to"
            " a folder that is read already, A/pipe.png is a pipe, socket or device."
        )


def test_a_folder_of_nothing_else_says_what_it_has(tmp_path: Path) -> None:
    put(tmp_path / ".snapshot" / "a.png", tmp_path / "b.jp2")
    with pytest.raises(ConfigError, match=r"\.snapshot \(1\).*\.jp2 \(1\)"):
        inputs(tmp_path, IMAGES)
    with pytest.raises(ConfigError, match="or `recursive: true`"):
        inputs(tmp_path, {"type": "slides"})


def test_buckets_and_web_pages_leave_out_and_count_the_same(tmp_path: Path) -> None:
    put(tmp_path / "a" / "a.png", tmp_path / "@eaDir" / "b.png", tmp_path / "a" / "c.gif")
    local = inputs(tmp_path, IMAGES)
    bucket = storage_path(f"memory://{tmp_path.name}")
    for name in ("a/a.png", "@eaDir/b.png", "a/c.gif"):
        (bucket / name).write_bytes(b"x")
    with range_server(tmp_path) as server:
        for data in (str(bucket), server.url):
            remote = inputs(data, IMAGES)
            assert names(remote) == names(local)
            assert said(remote) == said(local)


def test_web_links_to_nothing_are_named(tmp_path: Path) -> None:
    put(tmp_path / "a.svs")
    (tmp_path / "b.svs").symlink_to("/nowhere/b.svs")  # listed by the server, and then not found
    with range_server(tmp_path) as server:
        found = inputs(server.url, SLIDES)
    assert names(found) == ["a"]
    assert said(found) == ["what is no file is left out (1): b.svs is a link to nothing."]
