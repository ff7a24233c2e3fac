"""The READMEs of the folders of code, and the blocks of code in a README."""

import re
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = tuple(REPOSITORY / name for name in ("histodiff", "cluster", "data_prep", "kernels"))
FOLDER_READMES = sorted(path for folder in CODE for path in folder.rglob("README.md"))

_FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^(?: {4}.*)?\n)*^ {4}.*\n?(?:^(?: {4}.*)?\n)*", re.MULTILINE)


class Block(NamedTuple):
    """A block of code; an indented one has no language."""

    language: str
    text: str


def code_blocks(markdown: str) -> list[Block]:
    """All blocks of code: the fenced ones, then those indented by four spaces."""
    fenced = [Block(*match.groups()) for match in _FENCED.finditer(markdown)]
    rest = _FENCED.sub("", markdown)
    indented = [
        Block("", re.sub(r"^ {4}", "", text, flags=re.MULTILINE))
        for text in _INDENTED.findall(rest)
    ]
    return [*fenced, *indented]


def command_lines(markdown: str) -> list[str]:
    """Calls of histodiff in blocks of code, with continuations joined, without comments."""
    blocks = "\n".join(block.text for block in code_blocks(markdown)).replace("\\\n", " ")
    lines = re.findall(r"^histodiff (.+)$", blocks, re.MULTILINE)
    typed = [" ".join(line.partition("  #")[0].split()) for line in lines]
    return [line for line in typed if not line.startswith("<")]
