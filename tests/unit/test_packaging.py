"""What is installed is complete, and installs nothing that breaks others."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
SETTINGS = PYPROJECT["tool"]["setuptools"]
ROOTS: dict[str, str] = SETTINGS["package-dir"]
TEXT = (".md", ".py", ".toml", ".txt", ".yaml", ".j2", ".sh")
CODE = sorted(set(ROOTS.values()))


def packages_in_the_checkout() -> set[str]:
    """Every folder with Python files, by its import name."""
    return {
        ".".join([root, *folder.relative_to(REPOSITORY / place).parts])
        for root, place in ROOTS.items()
        for folder in {path.parent for path in (REPOSITORY / place).rglob("*.py")}
    } | set(ROOTS)


def data_files() -> set[str]:
    """Every file of the code folders that is no Python, as it lies in a wheel."""
    return {
        f"{root.replace('.', '/')}/{path.relative_to(REPOSITORY / place).as_posix()}"
        for root, place in ROOTS.items()
        for path in (REPOSITORY / place).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".md")
    }


def test_package_list_is_complete() -> None:
    assert set(SETTINGS["packages"]) == packages_in_the_checkout()


@pytest.mark.parametrize("folder", ["cluster", "configs", "data_prep", "kernels"])
def test_sibling_folder_has_no_init_so_it_shadows_nothing(folder: str) -> None:
    assert not (REPOSITORY / folder / "__init__.py").exists()


def test_installed_package_called_kernels_is_not_shadowed(tmp_path: Path) -> None:
    other = tmp_path / "kernels"
    other.mkdir()
    (other / "__init__.py").write_text("OWNER = 'somebody else'\n")
    done = subprocess.run(
        [sys.executable, "-c", "import histodiff.kernels, kernels; print(kernels.OWNER)"],
        cwd=REPOSITORY, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stdout == "somebody else\n", done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in CODE:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(REPOSITORY / name, source / name)
    build = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, str(target)],
        cwd=source, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return zipfile.ZipFile(built)


def test_wheel_has_every_module(wheel: zipfile.ZipFile) -> None:
    expected = {
        f"{root.replace('.', '/')}/{path.relative_to(REPOSITORY / place).as_posix()}"
        for root, place in ROOTS.items()
        for path in (REPOSITORY / place).rglob("*.py")
    }
    assert expected <= set(wheel.namelist())


def test_wheel_has_every_config_template_and_dashboard(wheel: zipfile.ZipFile) -> None:
    assert data_files() <= set(wheel.namelist())


def test_wheel_has_one_top_level_package_and_the_scripts(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"histodiff"}
    (scripts,) = [name for name in names if name.endswith("entry_points.txt")]
    assert wheel.read(scripts).decode().split("\n")[1:3] == [
        "histodiff = histodiff.cli.app:main", "histodiff-train = histodiff.cli.app:main",
    ]  # fmt: skip


def test_wheel_has_the_name_of_the_distribution(wheel: zipfile.ZipFile) -> None:
    assert Path(str(wheel.filename)).name.startswith("histodiff_train-")


def test_no_file_installs_the_other_histodiff_by_its_name() -> None:
    folders = [path for name in (*CODE, "tests") for path in (REPOSITORY / name).rglob("*")]
    files = [*folders, *REPOSITORY.glob("*.md"), REPOSITORY / "Makefile"]
    text = [path for path in files if path.suffix in TEXT or path.name == "Makefile"]
    other = re.compile(r"(?<!un)install(?: -\S+)*[ '\"]+histodiff(?![\w-])")
    assert len(text) > 500
    assert not [path for path in text if other.search(path.read_text())]


def test_lock_has_hashes_and_no_addresses() -> None:
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    assert not [line for line in lines if "://" in line]
    pins = [line for line in lines if "==" in line]
    assert len(pins) > 100
    assert all(line.endswith("\\") for line in pins)
