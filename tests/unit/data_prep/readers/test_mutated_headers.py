"""Headers mutated at random: no crash, no hang, no flat patch, bounded memory, in every reader.

Each kind runs in a process of its own, which an alarm ends after ten seconds with one file and a
limit on its address space keeps from taking more memory than any image may.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mutated_headers import KINDS

NUM_FEW, NUM_MANY = 40, 1000


def assert_survived(kind: str, count: int, folder: Path) -> None:
    command = [sys.executable, "-m", "tests.support.mutated_headers", kind, "0", str(count)]
    done = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, timeout=1800, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    outcomes = [line for line in lines if len(line) > 1]
    assert len(outcomes) == count
    assert [line for line in outcomes if line.get("flat")] == []
    assert any("refused" in line for line in outcomes) or kind == "ome-xml"


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_mutated_headers_are_read_rightly_or_refused(kind: str, tmp_path: Path) -> None:
    assert_survived(kind, NUM_FEW, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutated_headers_are_read_rightly_or_refused(kind: str, tmp_path: Path) -> None:
    assert_survived(kind, NUM_MANY, tmp_path)
