"""Writing checkpoints: every rank its own files, ``complete.json`` last, old ones removed.

A rank writes into a scratch folder and publishes from there. On a local file system the files are
moved at once. To an object store they are uploaded by a thread while training goes on; a rank that
is done leaves ``rank-RRRRR.json`` with its digests, and when all ranks have, rank 0 puts
``complete.json``. The thread takes part in no collective, so it cannot come between those of the
training. There is one upload at a time: the next checkpoint waits for the one before.
"""

import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from histodiff.storage import (
    StoragePath,
    is_local,
    remove_tree,
    sha256_of,
    storage_path,
    upload_tree,
    write_bytes,
)
from histodiff.training import ranks
from histodiff.training.checkpoints import (
    COMPLETE,
    CheckpointRecord,
    checkpoint_folder,
    complete_steps,
)

_POLL_SECONDS = {True: 0.01, False: 0.5}
"""How often rank 0 looks whether the others have published, on a local file system or not."""


class CheckpointWriter:
    """Writes the checkpoints of one run; all ranks make the same calls.

    Args:
        checkpoints: Folder of all checkpoints, shared by the ranks.
        zero_stage: Recorded.
        kept: Of the steps of all complete checkpoints, in order, those that stay.
    """

    def __init__(
        self,
        checkpoints: StoragePath,
        *,
        zero_stage: int,
        kept: Callable[[Sequence[int]], Collection[int]],
    ) -> None:
        self._checkpoints, self._zero_stage, self._kept = checkpoints, zero_stage, kept
        self._rank = ranks.rank()
        self._world_size = ranks.world_size()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._upload: Future[None] | None = None
        self._given_up = threading.Event()
        self.complete_step: int | None = None
        """Step of the last complete checkpoint, as rank 0 knows it."""

    def save(self, write: Callable[[Path], None], *, step: int) -> None:
        """Makes a checkpoint of the state as it is now; it may become complete later.

        Args:
            write: Writes this rank's files into an empty local folder; names differ by rank.
            step: Optimizer steps done.
        """
        self.wait()
        target = checkpoint_folder(self._checkpoints, step)
        if self._rank == 0:
            remove_tree(target)
        ranks.barrier()
        scratch = _scratch_for(target)
        write(scratch)
        self._upload = self._thread.submit(self._publish, scratch, target, step)
        if is_local(target):
            self.wait()

    def wait(self) -> None:
        """Returns when the last checkpoint is complete, on every rank.

        Raises:
            OSError: The store refused it.
        """
        if self._upload is not None:
            self._upload.result()
            self._upload = None
        ranks.barrier()

    def close(self) -> None:
        """Lets a running upload of this rank end, and gives up waiting for other ranks."""
        self._given_up.set()
        self._thread.shutdown()

    def _publish(self, scratch: Path, target: StoragePath, step: int) -> None:
        names = sorted(file.name for file in scratch.iterdir())
        digests = {name: sha256_of(storage_path(scratch / name)) for name in names}
        try:
            if is_local(target):
                _moved(scratch, Path(target.path), names)
            else:
                upload_tree(scratch, target)
        finally:
            shutil.rmtree(scratch)
        write_bytes(target / _marker(self._rank), json.dumps(digests).encode())
        if self._rank == 0:
            self._complete(target, step)

    def _complete(self, target: StoragePath, step: int) -> None:
        """Puts ``complete.json`` when every rank has published, and removes old checkpoints."""
        markers = [target / _marker(rank) for rank in range(self._world_size)]
        while not all(marker.exists() for marker in markers):
            if self._given_up.wait(_POLL_SECONDS[is_local(target)]):
                return
        files = {
            name: digest
            for marker in markers
            for name, digest in json.loads(marker.read_bytes()).items()
        }
        record = CheckpointRecord(
            step, self._world_size, self._zero_stage, str(self._checkpoints), files
        )
        write_bytes(target / COMPLETE, record.to_json())
        self.complete_step = step
        steps = complete_steps(self._checkpoints)
        for old in set(steps) - set(self._kept(steps)):
            remove_tree(checkpoint_folder(self._checkpoints, old))


def _marker(rank: int) -> str:
    return f"rank-{rank:05d}.json"


def _scratch_for(target: StoragePath) -> Path:
    """An empty local folder; in the target if that is local, so that files can be moved."""
    if not is_local(target):
        return Path(tempfile.mkdtemp(prefix="histodiff-checkpoint-"))
    Path(target.path).mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=".rank-", dir=target.path))


def _moved(source: Path, target: Path, names: Sequence[str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        (source / name).replace(target / name)
