"""Every command line in the README is one that works: its dry run passes."""

import re
import shlex
from pathlib import Path

import pytest

from histodiff.cli.app import app
from histodiff.workflows.registry import COMMANDS

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
NEEDS_AN_ARTIFACT = ("inspect", "verify")


def command_lines() -> list[str]:
    """Lines of code blocks that call histodiff, with continuations joined, without comments."""
    joined = README.replace("\\\n", " ")
    lines = re.findall(r"^ {4}histodiff (.+)$", joined, re.MULTILINE)
    typed = [" ".join(line.partition("  #")[0].split()) for line in lines]
    return [line for line in typed if not line.startswith("<")]


def own_words(line: str) -> list[str]:
    """The command itself: of a submitted one what is submitted, without its site."""
    words = shlex.split(line)
    if "--site" in words:
        place = words.index("--site")
        del words[place : place + 2]
    words = [word for word in words if not word.startswith("site.")]
    return words[1:] if words[0] == "submit" else words


def test_readme_has_commands() -> None:
    assert len(command_lines()) >= 8


@pytest.mark.parametrize("line", command_lines())
def test_readme_command_passes_its_dry_run(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("s3://bucket", str(tmp_path)) for word in own_words(line)]
    if words[0] in NEEDS_AN_ARTIFACT:
        words = [words[0], "--help"]
    elif words[0] in (*COMMANDS, "run", "demo", "doctor"):
        words = [*words, f"site.root={tmp_path}"]
    if words[0] in (*COMMANDS, "run", "demo") and "--dry-run" not in words:
        words = [*words, "--dry-run"]
    code = app(words, standalone_mode=False)
    assert not code, capsys.readouterr().err
