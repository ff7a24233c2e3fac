"""Checkpoints of a gang: one folder per step, complete only when ``complete.json`` lies in it.

``checkpoints/step-00000042/`` holds files from every rank, and ``complete.json`` with the SHA-256
of every other file, put last. A folder without it is torn and never chosen; one whose files do not
match is passed over for the one before, aloud. A checkpoint is private to the run that wrote it: it
records its address and is refused elsewhere. This module chooses and opens; ``checkpoint_writer``
writes. What is not said to be for one process is called by all ranks together.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from histodiff.errors import ConfigError
from histodiff.storage import (
    StoragePath,
    is_local,
    list_names,
    remove_tree,
    sha256_of,
    storage_path,
)
from histodiff.training import ranks

COMPLETE = "complete.json"
FORMAT = 2
"""Of the files of a checkpoint. A run that was begun with another one is not taken up."""
_PREFIX = "step-"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointRecord:
    """What ``complete.json`` says."""

    step: int
    world_size: int
    zero_stage: int
    address: str
    """The folder of checkpoints that it was written to."""
    files: dict[str, str]
    """SHA-256 by relative path."""
    format: int = FORMAT
    """Of the files."""

    def to_json(self) -> bytes:
        """As it is stored."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint whose files, as far as this rank needs them, are at hand and intact."""

    record: CheckpointRecord
    folder: Path


def checkpoint_folder(checkpoints: StoragePath, step: int) -> StoragePath:
    """Where the checkpoint after ``step`` optimizer steps lies."""
    return checkpoints / f"{_PREFIX}{step:08d}"


def complete_steps(checkpoints: StoragePath) -> list[int]:
    """Steps of all complete checkpoints, intact or not, in order. One process."""
    steps = [
        int(name.removeprefix(_PREFIX))
        for name in list_names(checkpoints)
        if name.startswith(_PREFIX)
    ]
    return [step for step in steps if (checkpoint_folder(checkpoints, step) / COMPLETE).exists()]


def newest_step(checkpoints: StoragePath) -> int:
    """Step of the newest complete checkpoint; 0 when there is none. One process."""
    return max(complete_steps(checkpoints), default=0)


def discard_checkpoints(checkpoints: StoragePath, *, after: int) -> None:
    """Removes every checkpoint of more than ``after`` steps."""
    if ranks.rank() == 0:
        for step in complete_steps(checkpoints):
            if step > after:
                remove_tree(checkpoint_folder(checkpoints, step))
    ranks.barrier()


@contextmanager
def opened_newest(
    checkpoints: StoragePath, *, needed: Callable[[CheckpointRecord], Sequence[str]]
) -> Iterator[OpenedCheckpoint | None]:
    """The newest checkpoint that is complete and intact; None when there is none.

    Args:
        checkpoints: Folder of all checkpoints.
        needed: Names of the files that this rank reads; only these are fetched and hashed.

    Raises:
        ConfigError: It was written by another run or another version.
    """
    for record in _records(checkpoints):
        with _fetched(checkpoint_folder(checkpoints, record.step), needed(record)) as folder:
            intact = all(_is_intact(folder, record, name) for name in needed(record))
            if _all_ranks(intact):
                yield OpenedCheckpoint(record, folder)
                return
        _log.warning(
            "%s does not match its digests; trying the one before",
            checkpoint_folder(checkpoints, record.step),
        )
    yield None


def _records(checkpoints: StoragePath) -> list[CheckpointRecord]:
    """Of all complete checkpoints, the newest first; rank 0 looks for all."""
    texts: list[str] = []
    if ranks.rank() == 0:
        steps = reversed(complete_steps(checkpoints))
        texts = [(checkpoint_folder(checkpoints, step) / COMPLETE).read_text() for step in steps]
    return [_record(text, checkpoints) for text in ranks.broadcast(texts)]


def _record(text: str, checkpoints: StoragePath) -> CheckpointRecord:
    values = json.loads(text)
    here = str(checkpoints)
    if values.get("address") != here:
        raise ConfigError(
            f"{here}: holds a checkpoint that was written to {values.get('address')};"
            " a checkpoint is resumed where it was written: move it back, or remove it"
        )
    if values.get("format") != FORMAT:
        raise ConfigError(
            f"{here}: holds a checkpoint of another version of histodiff; finish the run with that"
            " version, or remove the folder to train from the start"
        )
    return CheckpointRecord(**values)


@contextmanager
def _fetched(folder: StoragePath, names: Sequence[str]) -> Iterator[Path]:
    """A local folder with the named files, as far as they exist."""
    if is_local(folder):
        yield Path(folder.path)
        return
    with tempfile.TemporaryDirectory(prefix="histodiff-checkpoint-") as scratch:
        for name in names:
            if (folder / name).exists():
                with (folder / name).open("rb") as source, (Path(scratch) / name).open("wb") as to:
                    shutil.copyfileobj(source, to, 8 * 2**20)
        yield Path(scratch)


def _is_intact(folder: Path, record: CheckpointRecord, name: str) -> bool:
    file = folder / name
    return file.exists() and sha256_of(storage_path(file)) == record.files.get(name)


def _all_ranks(passed: bool) -> bool:
    """Whether it is so on every rank."""
    return all(ranks.all_gather(passed))
