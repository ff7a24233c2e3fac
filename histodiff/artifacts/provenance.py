"""Where an artifact comes from: code, versions, machine."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from histodiff.credentials import redacted

COMMIT_FILE = "COMMIT"
_PACKAGES = (
    "histodiff-train", "torch", "torchvision", "deepspeed", "ray", "diffusers", "xformers",
    "zarr", "s3fs", "timm", "openslide-python", "openslide-bin", "tifffile", "imagecodecs",
    "numpy", "pyarrow",
)  # fmt: skip


def provenance(wall_seconds: float) -> dict[str, Any]:
    """Git commit, command line, package versions, hardware and wall time; no environment."""
    return {
        "argv": [redacted(word) for word in sys.argv],
        "git": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES if _version(name)},
        "wall_seconds": round(wall_seconds, 3),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the checkout that runs, with ``-dirty`` for local changes; None outside one.

    A submitted job runs a copy of the code without history; the copy's ``COMMIT`` file names it.
    """
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        recorded = root / COMMIT_FILE
        return recorded.read_text(encoding="ascii").strip() if recorded.is_file() else None
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or None
