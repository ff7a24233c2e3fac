"""Commands that write artifacts, through the command line, with commands that take no time."""

import json
from pathlib import Path
from typing import Any

import pytest

from histodiff.artifacts import Artifact, CommandConfig, UnitIssue, begin
from histodiff.cli.app import app
from histodiff.cluster.site import Site
from histodiff.workflows import registry
from tests.support.toy_commands import TOY_COMMANDS


@pytest.fixture(autouse=True)
def toy_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, command in TOY_COMMANDS.items():
        monkeypatch.setitem(registry.COMMANDS, name, command)


class Shell:
    """Runs command lines in one folder and keeps what the last one printed."""

    def __init__(self, folder: Path, captured: pytest.CaptureFixture[str]) -> None:
        self.folder, self.captured = folder, captured
        self.out = self.err = ""

    def run(self, *arguments: str) -> int:
        root = f"site.root={self.folder / 'runs'}"
        code = app([*arguments, root, "site.ray.type=none"], standalone_mode=False)
        shown = self.captured.readouterr()
        self.out, self.err = shown.out, shown.err
        return int(code)

    def json(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.out)
        return loaded

    def config(self, name: str, **values: object) -> str:
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps({"name": name, "version": "v1", **values}))
        return str(path)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def test_command_prints_the_path_of_what_it_wrote(shell: Shell) -> None:
    assert shell.run("tile", shell.config("a", text="x")) == 0
    assert shell.out == f"{shell.folder}/runs/patches/a/v1\n"


def test_command_json_is_the_manifest(shell: Shell) -> None:
    assert shell.run("tile", shell.config("a", text="x"), "--json") == 0
    assert shell.json()["config"]["text"] == "x"
    assert shell.json()["path"] == f"{shell.folder}/runs/patches/a/v1"


def source_with_issues(config: CommandConfig, site: Site) -> Artifact:
    draft = begin(site.storage_root, config)
    return draft.finish(
        {},
        skipped=[UnitIssue(unit="slide-0", reason="NO_TISSUE")],
        failed=[UnitIssue(unit=f"slide-{n}", reason="UNREADABLE") for n in range(1, 31)],
    )


def test_command_with_failed_units_exits_3_and_lists_the_first(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.toy_commands.source", source_with_issues)
    assert shell.run("tile", shell.config("a", text="x")) == 3
    assert shell.out == f"{shell.folder}/runs/patches/a/v1\n"
    assert "slide-0: NO_TISSUE" in shell.err
    assert "slide-20: UNREADABLE" in shell.err
    assert "slide-21" not in shell.err
    assert "10 more" in shell.err


def test_command_that_only_skips_exits_0(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def skipping(config: CommandConfig, site: Site) -> Artifact:
        issue = UnitIssue(unit="slide-0", reason="NO_TISSUE")
        return begin(site.storage_root, config).finish({}, skipped=[issue])

    monkeypatch.setattr("tests.support.toy_commands.source", skipping)
    assert shell.run("tile", shell.config("a", text="x")) == 0
    assert "slide-0: NO_TISSUE" in shell.err


def test_bug_exits_1_with_a_traceback(shell: Shell) -> None:
    shell.run("tile", shell.config("a", text="x"))
    config = shell.config("c", patches="a@v1", seed=1, count=2, fails=True)
    assert shell.run("classify", config) == 1
    assert "Traceback" in shell.err
    assert shell.out == ""


def test_command_again_with_other_settings_exits_2_and_names_the_field(shell: Shell) -> None:
    config = shell.config("a", text="x")
    assert shell.run("tile", config) == 0
    assert shell.run("tile", config) == 0
    assert shell.run("tile", config, "text=y") == 2
    assert "config.text: 'x' -> 'y'" in shell.err


def test_command_whose_input_is_missing_exits_2_and_names_it(shell: Shell) -> None:
    config = shell.config("g", patches="a@v1", seed=1, scale=2)
    assert shell.run("guide", config) == 2
    assert shell.err.startswith("error: patches/a@v1 does not exist")


def test_dry_run_of_a_new_command_writes_nothing(shell: Shell) -> None:
    assert shell.run("tile", shell.config("a", text="x"), "--dry-run", "--json") == 0
    plan = shell.json()
    assert plan["state"] == "new"
    assert plan["config"]["text"] == "x"
    assert plan["config_fingerprint"]
    assert not (shell.folder / "runs").exists()


def test_dry_run_without_inputs_says_what_it_waits_for(shell: Shell) -> None:
    config = shell.config("g", patches="a@v1", seed=1, scale=2)
    assert shell.run("guide", config, "--dry-run", "--json") == 0
    plan = shell.json()
    assert plan["state"] == "waits for patches"
    assert plan["inputs"]["patches"]["artifact"] == "patches/a@v1"
    assert plan["inputs"]["patches"]["state"].startswith("missing")
    assert plan["config_fingerprint"] is None


def test_dry_run_tells_finished_from_differing(shell: Shell) -> None:
    source = shell.config("a", text="x")
    shell.run("tile", source)
    shell.run("tile", source, "--dry-run", "--json")
    assert shell.json()["state"] == "finished"
    shell.run("tile", source, "text=y", "--dry-run", "--json")
    assert shell.json()["state"] == "differs: config.text: 'x' -> 'y'"


def test_dry_run_for_people_is_yaml_with_the_config(shell: Shell) -> None:
    assert shell.run("tile", shell.config("a", text="needle"), "--dry-run") == 0
    assert "text: needle" in shell.out


def test_inspect_shows_finished_and_unfinished(shell: Shell) -> None:
    shell.run("tile", shell.config("a", text="x"))
    assert shell.run("inspect", "a@v1", "--json") == 0
    assert shell.json()["state"] == "finished"
    assert shell.run("inspect", f"{shell.folder}/runs/patches/a/v1") == 0
    assert shell.out.startswith("patches/a@v1  finished")
    (shell.folder / "runs/patches/a/v1/manifest.json").unlink()
    assert shell.run("inspect", "patches/a@v1") == 0
    assert "not finished" in shell.out


def test_verify_finds_a_changed_byte(shell: Shell) -> None:
    shell.run("tile", shell.config("a", text="x"))
    assert shell.run("verify", "a@v1") == 0
    (shell.folder / "runs/patches/a/v1/text.txt").write_text("y")
    assert shell.run("verify", "a@v1") == 2
    assert "text.txt" in shell.out


def test_interrupted_command_exits_130_with_one_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: object, site: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tests.support.toy_commands.source", interrupted)
    assert shell.run("tile", shell.config("a", text="x")) == 130
    assert shell.err == "interrupted; run the same command again to continue\n"
