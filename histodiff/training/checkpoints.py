"""Checkpoints of a gang: one folder per step, complete only when ``complete.json`` lies in it.

``checkpoints/step-00000042/`` holds files from every rank. Each rank writes its own files beside
it and moves (or uploads) them; rank 0 then gathers the digests and puts ``complete.json`` last.
A folder without it is torn and never chosen; one whose files do not match their digests is passed
over for the one before, aloud. Everything here is called by all ranks together.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed

from histodiff.errors import ConfigError
from histodiff.storage import (
    StoragePath,
    is_local,
    list_names,
    local_copy,
    remove_tree,
    sha256_of,
    storage_path,
    upload_tree,
    write_bytes,
)

COMPLETE = "complete.json"
_PREFIX = "step-"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointRecord:
    """What ``complete.json`` says."""

    step: int
    world_size: int
    zero_stage: int
    files: dict[str, str]
    """SHA-256 by relative path."""


def checkpoint_folder(checkpoints: StoragePath, step: int) -> StoragePath:
    """Where the checkpoint after ``step`` optimizer steps lies."""
    return checkpoints / f"{_PREFIX}{step:08d}"


def save_checkpoint(
    checkpoints: StoragePath,
    write: Callable[[Path], None],
    *,
    step: int,
    zero_stage: int,
    keep: int,
) -> None:
    """Writes a checkpoint and removes the oldest beyond ``keep``.

    Args:
        checkpoints: Folder of all checkpoints, shared by the ranks.
        write: Writes this rank's files into an empty local folder; names must differ by rank.
        step: Optimizer steps done.
        zero_stage: ZeRO stage, checked on resume.
        keep: How many complete checkpoints stay.
    """
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    target = checkpoint_folder(checkpoints, step)
    if rank == 0:
        remove_tree(target)
    torch.distributed.barrier()
    digests = _written(target, write)
    gathered: list[dict[str, str] | None] = [None] * world_size
    torch.distributed.all_gather_object(gathered, digests)
    if rank == 0:
        files = {name: sha for part in gathered if part for name, sha in part.items()}
        record = CheckpointRecord(step, world_size, zero_stage, dict(sorted(files.items())))
        write_bytes(target / COMPLETE, (json.dumps(asdict(record), indent=2) + "\n").encode())
        for old in _complete_steps(checkpoints)[:-keep]:
            remove_tree(checkpoint_folder(checkpoints, old))
    torch.distributed.barrier()


def latest_checkpoint(checkpoints: StoragePath, *, zero_stage: int) -> CheckpointRecord | None:
    """The newest checkpoint that is complete and intact; None when there is none.

    Raises:
        ConfigError: It was written by another number of ranks or with another ZeRO stage.
    """
    chosen: list[Any] = [None]
    if torch.distributed.get_rank() == 0:
        chosen[0] = _newest_intact(checkpoints)
    torch.distributed.broadcast_object_list(chosen)
    record: CheckpointRecord | None = chosen[0]
    if record is None:
        return None
    world_size = torch.distributed.get_world_size()
    if record.world_size != world_size or record.zero_stage != zero_stage:
        raise ConfigError(
            f"{checkpoint_folder(checkpoints, record.step)}: was written by {record.world_size}"
            f" ranks with zero_stage={record.zero_stage}, but this run has {world_size} ranks with"
            f" zero_stage={zero_stage}; set `ranks` of the site back, or remove {checkpoints}"
        )
    return record


def newest_step(checkpoints: StoragePath) -> int:
    """Step of the newest complete checkpoint, intact or not; 0 when there is none. One process."""
    return max(_complete_steps(checkpoints), default=0)


@contextmanager
def opened_checkpoint(checkpoints: StoragePath, record: CheckpointRecord) -> Iterator[Path]:
    """A local folder with the checkpoint's files, their digests checked."""
    folder = checkpoint_folder(checkpoints, record.step)
    with local_copy(folder) as local:
        if not is_local(folder) and not _is_intact(storage_path(local), record):
            raise ConfigError(f"{folder}: arrived damaged; run the command again")
        yield local


def _written(target: StoragePath, write: Callable[[Path], None]) -> dict[str, str]:
    """Has this rank's files written and published; returns their digests."""
    parent = None
    if is_local(target):
        Path(target.path).mkdir(parents=True, exist_ok=True)
        parent = target.path
    with tempfile.TemporaryDirectory(prefix=".rank-", dir=parent) as scratch:
        folder = Path(scratch)
        write(folder)
        names = _files(folder)
        digests = {name: sha256_of(storage_path(folder / name)) for name in names}
        if parent is None:
            upload_tree(folder, target)
        else:
            _moved(folder, Path(parent), names)
    return digests


def _files(folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]


def _moved(source: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).replace(target / name)


def _complete_steps(checkpoints: StoragePath) -> list[int]:
    steps = [
        int(name.removeprefix(_PREFIX))
        for name in list_names(checkpoints)
        if name.startswith(_PREFIX)
    ]
    return [step for step in steps if (checkpoint_folder(checkpoints, step) / COMPLETE).exists()]


def _newest_intact(checkpoints: StoragePath) -> CheckpointRecord | None:
    for step in reversed(_complete_steps(checkpoints)):
        folder = checkpoint_folder(checkpoints, step)
        record = CheckpointRecord(**json.loads((folder / COMPLETE).read_bytes()))
        if _is_intact(folder, record):
            return record
        _log.warning("%s does not match its digests; trying the one before", folder)
    return None


def _is_intact(folder: StoragePath, record: CheckpointRecord) -> bool:
    return all(
        (folder / name).exists() and sha256_of(folder / name) == digest
        for name, digest in record.files.items()
    )
