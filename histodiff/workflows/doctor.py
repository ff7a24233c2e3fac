"""``doctor``: what histodiff would use on this machine, and what is missing, with the fix.

Every check looks at one thing and says what it found. A required one that fails makes the command
fail; the others are for information.
"""

import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

import histodiff
from histodiff.cluster.site import Site
from histodiff.errors import ConfigError
from histodiff.storage import check_writable, is_local

_PYTHON = (3, 11)
_GIB = 2**30
_TOOLS = {"g++": "g++", "git": "git", "make": "make"}
_PACKAGES = {
    "torch": "torch", "torchvision": "torchvision", "deepspeed": "deepspeed", "ninja": "ninja",
    "ray": "ray", "diffusers": "diffusers", "timm": "timm", "zarr": "zarr", "s3fs": "s3fs",
    "openslide-python": "openslide", "openslide-bin": "openslide_bin", "tifffile": "tifffile",
    "imagecodecs": "imagecodecs",
}  # fmt: skip
_S3_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    ``apt`` is the Debian package that brings it, ``fix`` any other way to mend it.
    """

    name: str
    found: str
    ok: bool
    required: bool = True
    apt: str = ""
    fix: str = ""


def doctor(site: Site, environment: Mapping[str, str]) -> list[Check]:
    """All checks, in the order they are worth reading."""
    return [
        *system_checks(),
        import_name_check(),
        *(_package(name, module) for name, module in _PACKAGES.items()),
        *_device_checks(site),
        *_storage_checks(site, environment),
    ]


def system_checks() -> list[Check]:
    """Python, and what DeepSpeed needs to compile its operation on the first use."""
    version = platform.python_version()
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    own = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
    return [
        Check("python", version, sys.version_info >= _PYTHON, fix="install Python 3.11 or newer"),
        *(_tool(name, package) for name, package in _TOOLS.items()),
        Check(
            "python headers",
            str(headers) if headers.is_file() else "missing",
            headers.is_file(),
            apt="python3-dev" if sys.prefix == "/usr" else own,
        ),
    ]


def import_name_check() -> Check:
    """Whether the files below the import name are ours: on PyPI, another project has it too."""
    # what is installed has a record of its files; a checkout's own *.egg-info has none
    found = metadata.distributions(name="histodiff")
    others = [f"histodiff {other.version}" for other in found if other.read_text("RECORD")]
    whole = histodiff.__file__ is not None  # __init__.py goes with the other's uninstallation
    return Check(
        "import name",
        f"{' and '.join(others)}, another project, has it too" if others
        else "ours alone" if whole else "ours, but files are missing",
        whole and not others,
        fix="each overwrites the other's files; pip uninstall -y histodiff histodiff-train, then"
        " install histodiff-train again",
    )  # fmt: skip


def apt_line(checks: Iterable[Check]) -> str:
    """The command that installs what is missing; empty when nothing is."""
    packages = sorted({check.apt for check in checks if check.apt and not check.ok})
    return f"apt-get install -y {' '.join(packages)}" if packages else ""


def described(checks: Iterable[Check]) -> str:
    """The checks as a table for people, with fixes below."""
    rows = list(checks)
    width = max(len(check.name) for check in rows)
    lines = [f"{_mark(check):8s}{check.name:{width}s}  {check.found}" for check in rows]
    lines += [f"fix {check.name}: {check.fix}" for check in rows if check.fix and not check.ok]
    install = apt_line(rows)
    if install:
        lines.append(f"install what is missing: {install}")
    return "\n".join(lines)


def _mark(check: Check) -> str:
    if check.ok:
        return "ok"
    return "MISSING" if check.required else "-"


def _tool(name: str, package: str) -> Check:
    path = shutil.which(name)
    return Check(name, path or "missing", path is not None, apt=package)


def _package(name: str, module: str) -> Check:
    found = find_spec(module) is not None
    version = metadata.version(name) if found else "missing"
    return Check(name, version, found, fix="make install")


def _device_checks(site: Site) -> list[Check]:
    cuda = torch.cuda.is_available()
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    xformers = find_spec("xformers") is not None
    return [
        Check("cpus", f"{os.cpu_count()}, torch uses {torch.get_num_threads()} threads", True),
        Check(
            "device",
            f"site asks for {site.device}; CUDA devices: {', '.join(names) or 'none'}",
            cuda or site.device == "cpu",
            fix="set site.device=cpu, or install a driver for the GPU",
        ),
        Check(
            "xformers",
            metadata.version("xformers") if xformers else "not installed (attention uses SDPA)",
            xformers,
            required=False,
            fix="pip install xformers" if cuda else "",
        ),
    ]


def _storage_checks(site: Site, environment: Mapping[str, str]) -> list[Check]:
    given = [name for name in _S3_VARIABLES if environment.get(name)]
    checks = [
        _root_check(site),
        Check("s3 variables", ", ".join(given) or "none set", bool(given), required=False),
    ]
    root = site.storage_root
    folders = {"free space for temporary files": Path(environment.get("TMPDIR", "/tmp"))}
    if is_local(root):
        folders["free space below root"] = _existing(Path(root.path))
    for name, folder in folders.items():
        free = shutil.disk_usage(folder).free
        checks.append(
            Check(name, f"{free / _GIB:.1f} GiB in {folder}", free > _GIB, fix="free some")
        )
    return checks


def _root_check(site: Site) -> Check:
    root = site.storage_root
    if is_local(root):
        writable = os.access(_existing(Path(root.path)), os.W_OK)
        return Check("root", str(root), writable, fix="set site.root to a folder you may write")
    try:
        check_writable(root)
    except ConfigError as error:
        return Check("root", site.root, ok=False, fix=str(error))
    return Check("root", f"{root} can be written", ok=True)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
