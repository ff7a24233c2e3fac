import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest
import torch.distributed

from histodiff.errors import ConfigError
from histodiff.storage import StoragePath, storage_path
from histodiff.training import CheckpointWriter, discard_checkpoints, opened_newest
from histodiff.training.checkpoints import newest_step


@pytest.fixture(autouse=True, params=["alone", "gang of one"])
def one_rank(request):
    """A process without a group, as for small models, and one in a group."""
    if request.param == "alone":
        yield
        return
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


def last(number: int):
    """Keeps so many."""

    def kept(steps: Sequence[int]) -> Collection[int]:
        return steps[-number:]

    return kept


@pytest.fixture
def writer(folder) -> Iterator[CheckpointWriter]:
    made = CheckpointWriter(folder, zero_stage=1, kept=last(2))
    yield made
    made.close()


def save(writer: CheckpointWriter, *steps: int) -> None:
    for step in steps:
        writer.save(lambda local, step=step: state(local, step), step=step)
    writer.wait()


def state(local: Path, step: int) -> None:
    (local / "state").write_text(f"state after {step}")
    (local / "unread").write_text(str(step))


def content(folder: StoragePath) -> str | None:
    with opened_newest(folder, needed=lambda record: ["state"]) as opened:
        return None if opened is None else (opened.folder / "state").read_text()


def test_newest_checkpoint_none_without_any(folder):
    assert content(folder) is None


def test_newest_checkpoint_is_opened_and_those_not_kept_go(folder, writer):
    save(writer, 5, 10, 100)
    assert content(folder) == "state after 100"
    assert not (folder / "step-00000005").exists()
    assert (folder / "step-00000010" / "complete.json").exists()


def test_newest_checkpoint_torn_one_is_never_chosen(folder, writer):
    save(writer, 5, 10)
    (folder / "step-00000010" / "complete.json").unlink()
    assert content(folder) == "state after 5"
    save(writer, 10)
    assert content(folder) == "state after 10"


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_newest_checkpoint_damaged_one_is_passed_over(folder, writer, damage):
    save(writer, 5, 10)
    path = folder / "step-00000010" / "state"
    if damage == "changed":
        path.write_text("state after 11")
    else:
        path.unlink()
    assert content(folder) == "state after 5"


def test_checkpoint_that_was_written_elsewhere_is_refused_with_the_fix(folder, writer):
    save(writer, 5)
    record = folder / "step-00000005" / "complete.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"address": "s3://else/where"}))
    with pytest.raises(ConfigError, match=r"written to s3://else/where.*move it back, or remove"):
        content(folder)


def test_checkpoint_of_another_version_is_refused_with_the_fix(folder, writer):
    save(writer, 5)
    record = folder / "step-00000005" / "complete.json"
    values = json.loads(record.read_text())
    del values["format"]
    record.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"another version of histodiff; .*remove the folder"):
        content(folder)


def test_discarded_checkpoints_are_those_after_a_step(folder, writer):
    save(writer, 5, 10)
    discard_checkpoints(folder, after=5)
    assert newest_step(folder) == 5


def test_failed_upload_is_raised_by_the_next_wait(tmp_path, writer):
    def write(local: Path) -> None:
        state(local, 5)

    blocked = CheckpointWriter(storage_path(tmp_path / "blocked"), zero_stage=1, kept=last(1))
    (tmp_path / "blocked").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="blocked"):
        blocked.save(write, step=5)
    blocked.close()
