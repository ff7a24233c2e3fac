"""No deletion takes a pattern: who may remove anything at all, read from the code itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDERS = ("histodiff", "cluster", "data_prep", "kernels")
REMOVING = {
    "rm", "rm_file", "rmdir", "rmtree", "unlink", "removedirs", "delete_keys", "remove_below",
    "delete_object", "delete_objects", "bulk_delete", "expand_path",
}  # fmt: skip
"""Methods and functions of pathlib, shutil, os, fsspec and s3fs that remove, or find what to."""
MAY = {
    "histodiff/storage/removal.py": {"unlink", "rmtree", "rm_file", "remove_below"},
    "histodiff/storage/paths.py": {"unlink"},
    "histodiff/storage/private.py": {"unlink"},
    "histodiff/storage/s3.py": set(),
    "histodiff/latents/cache.py": {"unlink"},
    "histodiff/training/checkpoint_writer.py": {"rmtree"},
    "histodiff/workflows/bench/loader.py": {"unlink"},
}
"""Local files by their full path, but for `removal`; each was read."""
GLOBBING = {"glob", "rglob", "iglob"}
MAY_GLOB_LOCALLY = {
    "histodiff/config/loader.py", "histodiff/models/autoencoder/importing.py",
    "histodiff/storage/copies.py",
}  # fmt: skip
"""Who looks for files by a pattern of our own, below a `pathlib.Path`, and removes nothing."""


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr


@pytest.fixture(scope="module")
def called() -> dict[str, set[str]]:
    found = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py")]
    assert len(found) > 100
    return {str(path.relative_to(REPOSITORY)): set(calls(path)) for path in found}


def test_only_known_modules_remove_anything(called: dict[str, set[str]]) -> None:
    removing = {name: found & REMOVING for name, found in called.items() if found & REMOVING}
    assert {
        name: found for name, found in removing.items() if not found <= MAY.get(name, set())
    } == {}


def test_no_module_that_removes_looks_for_patterns(called: dict[str, set[str]]) -> None:
    globbing = {name for name, found in called.items() if found & GLOBBING}
    assert globbing <= MAY_GLOB_LOCALLY
    assert not globbing & MAY.keys()
