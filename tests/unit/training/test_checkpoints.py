import json
from pathlib import Path

import pytest
import torch.distributed

from histodiff.errors import ConfigError
from histodiff.storage import StoragePath, storage_path
from histodiff.training import latest_checkpoint, opened_checkpoint, save_checkpoint


@pytest.fixture(autouse=True)
def one_rank():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path) -> StoragePath:
    """A local folder, and one that is not (as an object store is not)."""
    if request.param == "local":
        return storage_path(tmp_path / "checkpoints")
    return storage_path(f"memory://{tmp_path.name}/checkpoints")


def save(folder: StoragePath, step: int, *, keep: int = 5) -> None:
    def write(local: Path) -> None:
        (local / "engine").mkdir()
        (local / "engine" / "state").write_text(f"state after {step}")
        (local / "average").write_text(str(step))

    save_checkpoint(folder, write, step=step, zero_stage=1, keep=keep)


def content(folder: StoragePath) -> str | None:
    record = latest_checkpoint(folder, zero_stage=1)
    if record is None:
        return None
    with opened_checkpoint(folder, record) as local:
        return (local / "engine" / "state").read_text()


def test_latest_checkpoint_none_without_any(folder):
    assert latest_checkpoint(folder, zero_stage=1) is None


def test_latest_checkpoint_is_the_newest_and_old_ones_go(folder):
    for step in (5, 10, 100):
        save(folder, step, keep=2)
    assert content(folder) == "state after 100"
    assert not (folder / "step-00000005").exists()
    assert (folder / "step-00000010" / "complete.json").exists()


def test_latest_checkpoint_torn_one_is_never_chosen(folder):
    save(folder, 5)
    save(folder, 10)
    (folder / "step-00000010" / "complete.json").unlink()
    assert content(folder) == "state after 5"
    save(folder, 10)
    assert content(folder) == "state after 10"


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_latest_checkpoint_damaged_one_is_passed_over(folder, damage):
    save(folder, 5)
    save(folder, 10)
    state = folder / "step-00000010" / "engine" / "state"
    if damage == "changed":
        state.write_text("state after 11")
    else:
        state.unlink()
    assert content(folder) == "state after 5"


def test_latest_checkpoint_of_other_ranks_or_stage_says_what_to_do(folder):
    save(folder, 5)
    with pytest.raises(ConfigError, match="zero_stage=1, but this run has 1 ranks"):
        latest_checkpoint(folder, zero_stage=3)
    record = folder / "step-00000005" / "complete.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"world_size": 4}))
    with pytest.raises(ConfigError, match="written by 4 ranks"):
        latest_checkpoint(folder, zero_stage=1)
