"""Every folder of code says truly what is in it: with a picture, and examples that work."""

import re
from pathlib import Path

import pytest

from tests.support.readmes import CODE, FOLDER_READMES, REPOSITORY, Block, code_blocks

PACKAGES = [*CODE[1:], *sorted(init.parent for init in CODE[0].glob("*/__init__.py"))]
MODULE = re.compile(r"`([\w./-]+\.py)`")
ARROW = re.compile(r"->|<-")


def of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def examples() -> list[tuple[Path, Block]]:
    return [
        (path, block)
        for path in FOLDER_READMES
        for block in code_blocks(path.read_text())
        if block.language == "python"
    ]


@pytest.mark.parametrize("folder", PACKAGES, ids=of)
def test_package_has_a_readme(folder: Path) -> None:
    assert (folder / "README.md").is_file()


@pytest.mark.parametrize("readme", FOLDER_READMES, ids=of)
def test_readme_names_modules_that_exist(readme: Path) -> None:
    places = (readme.parent, REPOSITORY, CODE[0])
    names = MODULE.findall(readme.read_text())
    assert [name for name in names if not any((at / name).is_file() for at in places)] == []


@pytest.mark.parametrize("readme", FOLDER_READMES, ids=of)
def test_readme_has_a_picture(readme: Path) -> None:
    pictures = [block for block in code_blocks(readme.read_text()) if ARROW.search(block.text)]
    assert pictures, "no block of code with an arrow, -> or <-: draw how data goes through"


@pytest.mark.parametrize(
    ("readme", "example"), [pytest.param(*one, id=of(one[0])) for one in examples()]
)
def test_readme_python_example_prints_what_it_says(
    readme: Path,
    example: Block,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    said = re.findall(r"^# prints: (.*)$", example.text, re.MULTILINE)
    exec(compile(example.text, str(readme), "exec"), {"__name__": "example"})
    assert said
    assert capsys.readouterr().out.splitlines() == said
