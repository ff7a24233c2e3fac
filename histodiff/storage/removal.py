"""The only code that removes anything from storage. Names are literal: none is a pattern.

Locally the system's own calls get the whole path. On S3 the keys are listed by their prefix, and
each is named in the request that deletes it; see `LiteralS3`.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from histodiff.storage.places import StoragePath, is_local
from histodiff.storage.remote import told_apart
from histodiff.storage.s3 import LiteralS3


def remove_tree(folder: StoragePath) -> None:
    """Removes ``folder`` and everything below it; nothing happens when there is none.

    Names are literal: what is removed is the folder of exactly this name, and the objects whose
    keys begin with exactly it and ``/``.
    """
    if is_local(folder):
        target = Path(folder.path)
        if target.is_symlink() or target.is_file():
            target.unlink()
        else:
            with suppress(FileNotFoundError):
                shutil.rmtree(target)
        return
    with told_apart(folder):
        if isinstance(folder.fs, LiteralS3):
            folder.fs.remove_below(folder.path)
            return
        for name in folder.fs.find(folder.path):
            folder.fs.rm_file(name)


def remove_file(path: StoragePath) -> None:
    """Removes the object of exactly this name; nothing happens when there is none."""
    if is_local(path):
        Path(path.path).unlink(missing_ok=True)
        return
    with told_apart(path), suppress(FileNotFoundError):
        path.fs.rm_file(path.path)
