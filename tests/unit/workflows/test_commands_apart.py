"""Importing one command imports no other: packages of commands are told apart, and are lazy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import histodiff.workflows
from histodiff.workflows.registry import COMMANDS

FOLDER = Path(histodiff.workflows.__file__).parent


def files_of(command: str) -> list[Path]:
    flat = FOLDER / f"{command}.py"
    return [flat] if flat.exists() else sorted((FOLDER / command).rglob("*.py"))


def functions_of_commands(path: Path) -> set[str]:
    """Commands whose function the file imports, from their package, ``command`` or flat module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in COMMANDS:
                package = f"histodiff.workflows.{name}"
                if node.module == f"{package}.command":
                    found.add(name)
                elif node.module == package:
                    found |= {name} & {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_no_file_of_a_command_imports_another_command(command: str) -> None:
    for path in files_of(command):
        assert functions_of_commands(path) <= {command}, path


def test_reading_the_table_of_a_sweep_imports_neither_the_sweep_nor_ray() -> None:
    script = (
        "import sys, histodiff.workflows.sweep.trial_table;"
        "sys.exit('histodiff.workflows.sweep.command' in sys.modules or 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == 0
