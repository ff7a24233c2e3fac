"""``doctor`` finds the other distribution that installs into the same folder."""

from pathlib import Path

import pytest

import histodiff
from histodiff.cli.app import app
from histodiff.workflows.doctor import import_name_check


def install_metadata(site_packages: Path, name: str, *, files: str) -> None:
    """What an installer leaves behind of a distribution, or a build in a checkout."""
    folder = site_packages / name
    folder.mkdir()
    info = "METADATA" if name.endswith(".dist-info") else "PKG-INFO"
    (folder / info).write_text("Metadata-Version: 2.1\nName: histodiff\nVersion: 0.2.0\n")
    (folder / files).write_text("histodiff/__init__.py,,\n")


def test_import_name_of_this_environment_is_ours_alone() -> None:
    assert import_name_check().ok


def test_doctor_with_the_other_histodiff_fails_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install_metadata(tmp_path, "histodiff-0.2.0.dist-info", files="RECORD")
    assert app(["doctor", f"site.root={tmp_path}"], standalone_mode=False) == 2
    (fix,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("fix import name:")
    ]
    assert "histodiff 0.2.0" in import_name_check().found
    assert "pip uninstall -y histodiff histodiff-train" in fix


def test_import_name_check_misses_what_the_other_took_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # what is left is a folder without __init__.py, a namespace
    monkeypatch.setattr(histodiff, "__file__", None)
    check = import_name_check()
    assert (check.ok, check.found) == (False, "ours, but files are missing")


def test_import_name_check_is_not_alarmed_by_metadata_of_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install_metadata(tmp_path, "histodiff.egg-info", files="SOURCES.txt")
    assert import_name_check().ok
