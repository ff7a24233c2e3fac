"""Every command line in a README is one that works: its dry run passes."""

import shlex
from pathlib import Path

import pytest

from histodiff.cli.app import app
from histodiff.workflows.registry import COMMANDS
from tests.support.readmes import FOLDER_READMES, REPOSITORY, command_lines

MAIN = REPOSITORY / "README.md"
LINES = {
    line: readme for readme in (MAIN, *FOLDER_READMES) for line in command_lines(readme.read_text())
}
NEEDS_MORE = ("inspect", "verify", "plan", "export")


def own_words(line: str) -> list[str]:
    """The command itself: of a submitted one what is submitted, without its site."""
    words = shlex.split(line)
    if "--site" in words:
        place = words.index("--site")
        del words[place : place + 2]
    words = [word for word in words if not word.startswith("site.")]
    return words[1:] if words[0] == "submit" else words


def test_readme_has_commands() -> None:
    assert len(command_lines(MAIN.read_text())) >= 8


@pytest.mark.parametrize("line", LINES)
def test_readme_command_passes_its_dry_run(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("s3://bucket", str(tmp_path)) for word in own_words(line)]
    if words[0] in (*NEEDS_MORE, "fetch"):
        words = [words[0], "--help"]
    elif words[0] in (*COMMANDS, "run", "demo", "doctor"):
        words = [*words, f"site.root={tmp_path}"]
    if words[0] in (*COMMANDS, "run", "demo") and "--dry-run" not in words:
        words = [*words, "--dry-run"]
    code = app(words, standalone_mode=False)
    assert not code, capsys.readouterr().err
