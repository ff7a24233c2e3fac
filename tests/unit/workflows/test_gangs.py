"""The hub of a run on every rank of torchrun."""

import os
import stat
from pathlib import Path

import pytest

from histodiff.storage import storage_path
from histodiff.telemetry import metrics_hub
from histodiff.workflows.gangs import hub_of_ranks


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")


def test_other_ranks_of_torchrun_find_hub_and_token_where_rank_0_left_them_for_its_owner_alone(
    tmp_path: Path, monkeypatch
) -> None:
    artifact = storage_path(tmp_path / "denoisers/a/1")
    with metrics_hub(0) as hub:
        as_rank(monkeypatch, 0)
        assert hub_of_ranks(artifact, hub) == hub
        as_rank(monkeypatch, 1)
        assert hub_of_ranks(artifact, None) == hub
    for folder, _, names in os.walk(tmp_path):
        for name in names:
            assert stat.S_IMODE((Path(folder) / name).stat().st_mode) == 0o600


def test_run_without_metrics_forgets_the_hub_of_the_one_before(tmp_path: Path, monkeypatch) -> None:
    artifact = storage_path(tmp_path)
    as_rank(monkeypatch, 0)
    with metrics_hub(0) as hub:
        hub_of_ranks(artifact, hub)
    assert hub_of_ranks(artifact, None) is None
    as_rank(monkeypatch, 1)
    assert hub_of_ranks(artifact, None) is None


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"host": 1}', "3"])
def test_hub_that_cannot_be_read_ends_no_training(tmp_path: Path, monkeypatch, text: str) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch/hub.json").write_text(text)
    as_rank(monkeypatch, 1)
    assert hub_of_ranks(storage_path(tmp_path), None) is None


def test_without_torchrun_the_hub_is_that_of_the_driver(tmp_path: Path) -> None:
    with metrics_hub(0) as hub:
        assert hub_of_ranks(storage_path(tmp_path), hub) == hub
    assert list(tmp_path.iterdir()) == []
