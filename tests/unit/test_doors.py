"""One door per vendor: each large framework is imported by exactly one package."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = ("histodiff", "cluster", "data_prep", "kernels")
DOORS = {
    "ray": "cluster",
    "deepspeed": "histodiff/training",
    "xformers": "kernels",
    "triton": "kernels",
    "zarr": "histodiff/latents",
    "fsspec": "histodiff/storage",
    "s3fs": "histodiff/storage",
    "botocore": "histodiff/storage",
    "upath": "histodiff/storage",
    "diffusers": "histodiff/models",
    "timm": "histodiff/models",
    "openslide": "data_prep/readers",
    "tifffile": "data_prep/readers",
    "h5py": ("data_prep/readers", "data_prep/index", "data_prep/sources"),
    "prometheus_client": "histodiff/telemetry",
    "tensorboardX": "histodiff/telemetry",
    "typer": "histodiff/cli",
}


def importers(vendor: str) -> list[str]:
    """Files of ours that import the vendor, anywhere in them."""
    return sorted(
        path.relative_to(REPOSITORY).as_posix()
        for folder in CODE
        for path in (REPOSITORY / folder).rglob("*.py")
        if vendor in imported_roots(path)
    )


def imported_roots(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(("vendor", "door"), DOORS.items())
def test_vendor_is_imported_through_its_door_alone(
    vendor: str, door: str | tuple[str, ...]
) -> None:
    doors = (door,) if isinstance(door, str) else door
    inside = tuple(f"{each}/" for each in doors)
    outside = [file for file in importers(vendor) if not file.startswith(inside)]
    assert outside == []


def test_nothing_that_another_process_says_through_an_open_port_is_unpickled() -> None:
    """Ray has a token of its own, and so ``pickle`` in ``cluster``; torch's ports have none."""
    objects = re.compile(r"\w*_object(_list)?$")
    found = [
        f"{path.relative_to(REPOSITORY)}: {node.attr}"
        for folder in CODE
        for path in (REPOSITORY / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and (
            (node.attr in ("load", "loads") and ast.unparse(node.value) in ("pickle", "marshal"))
            or (objects.match(node.attr) and ast.unparse(node.value).startswith("torch.dist"))
        )
    ]
    assert found == ["cluster/gang.py: loads"]
