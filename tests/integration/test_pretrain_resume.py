"""Runs on real processes that are killed or told to go, and go on with other numbers of ranks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.resume_matrix import ResumeMatrix, all_cells, table
from tests.support.split_curves import CUTS, STEPS, TOLERANCE, curves, distances

QUICK = [(2, "2 -> 1", "SIGTERM"), (3, "1 -> 2", "kill -9")]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResumeMatrix]:
    return ResumeMatrix(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    ("stage", "resize", "ending"),
    [pytest.param(*key, marks=[] if key in QUICK else [pytest.mark.slow]) for key in all_cells()],
)
def test_pretrain_ended_and_resumed_equals_undisturbed(matrix, stage, resize, ending):
    cell = matrix.cell(stage, resize, ending)
    assert cell.is_good, table([cell])
    assert cell.resumed_from == (7 if ending == "SIGTERM" else 4)


@pytest.mark.slow
def test_pretrain_cut_into_ranks_and_micro_batches_gives_one_curve(tmp_path: Path):
    found = curves(tmp_path)
    assert [len(curve.losses) for curve in found] == [STEPS] * len(CUTS)
    assert max(distances(found)) <= TOLERANCE
