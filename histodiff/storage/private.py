"""Objects that are nobody else's business: local files that their owner alone may read."""

import os
import uuid
from pathlib import Path

from histodiff.storage.paths import write_bytes
from histodiff.storage.places import StoragePath, is_local

OWNER_ALONE = 0o600


def write_private(path: StoragePath, data: bytes) -> None:
    """Puts a whole object; a local file is its owner's alone from its first byte on."""
    if not is_local(path):
        write_bytes(path, data)
        return
    target = Path(path.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        descriptor = os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ALONE)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
