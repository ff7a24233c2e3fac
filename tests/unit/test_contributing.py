"""The list of layers in CONTRIBUTING is the contract that import-linter enforces."""

import re
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BETWEEN_MARKS = re.compile(r"<!-- layers: .*? -->\n(.*?)<!-- end of layers -->", re.DOTALL)


def layer_lines() -> list[str]:
    """The layers of the contract, the highest first, named as CONTRIBUTING names them."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (one["layers"] for one in contracts["contracts"] if one["type"] == "layers")
    return [layer.replace("histodiff.", "") for layer in layers]


def shown_lines() -> dict[str, str]:
    """The lines of the list in CONTRIBUTING: left column, and the comment right of it."""
    (block,) = BETWEEN_MARKS.findall((REPOSITORY / "CONTRIBUTING.md").read_text())
    columns = [re.split(r" {2,}", line.strip(), maxsplit=1) for line in block.split("\n")]
    return {left: " ".join(comment) for left, *comment in columns if left}


def test_contributing_lists_the_layers_of_the_contract() -> None:
    shown, layers = shown_lines(), layer_lines()
    wanted = "\n".join(f"    {line:<41}  {shown.get(line, '')}".rstrip() for line in layers)
    assert list(shown) == layers, f"paste this between the marks of CONTRIBUTING.md:\n\n{wanted}\n"
