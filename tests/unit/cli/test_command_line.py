"""The command line as a user meets it: in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from histodiff.cli.app import app
from histodiff.workflows.registry import COMMANDS

REPOSITORY = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "ray", "deepspeed", "diffusers", "pyarrow", "numpy", "histodiff.config")


def histodiff(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "histodiff", *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["submit", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from histodiff.cli.app import app\n"
        f"app({arguments!r}, standalone_mode=False)\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_help_lists_every_command() -> None:
    shown = histodiff("--help").stdout
    others = ["run", "demo", "submit", "plan", "inspect", "verify", "export", "bench", "doctor"]
    others += ["fetch"]
    for name in [*COMMANDS, *others, "schema"]:
        assert f"\n  {name} " in shown


def test_help_of_a_command_points_to_its_schema() -> None:
    assert "histodiff schema encode" in histodiff("encode", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "no/such/file.yaml"], "no such config file"),
        (["plan", "encode/demo.yaml", "measure_seconds=soon"], "positive number of seconds"),
        (["inspect", "nothing@v1"], "nothing of that name"),
        (["inspect", "a/b"], "neither kind/name@version nor a folder"),
        (["inspect", "latents/a@v1", "--site", "site/labtop"], "did you mean"),
        (["inspect", "latents/a@v1", "site.rooot=x"], "did you mean 'root'"),
        (["inspect", "latents/a@v1", "x=1"], "site.<key>=value only"),
        (["schema", "tiles"], "known:"),
        (["bench", "speed"], "available:"),
        (["submit", "nothing"], "known:"),
        (["submit", "tile", "x", "--site", "site/laptop"], "needs a running cluster"),
        (["submit", "tile", "x", "site.root=here"], "relative"),
    ],
)
def test_users_mistake_is_one_line_and_exit_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = app(arguments, standalone_mode=False)
    shown = capsys.readouterr()
    assert code == 2
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith("error: ")
    assert expected in shown.err


def test_users_mistake_ends_the_process_with_2_and_no_traceback() -> None:
    done = histodiff("run", "no/such/file.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no/such/file.yaml")
    assert "Traceback" not in done.stderr


def test_unknown_command_exits_2() -> None:
    done = histodiff("tiles")
    assert done.returncode == 2
    assert "tile" in done.stderr


def test_schema_prints_one_json_object_with_descriptions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert app(["schema", "site"], standalone_mode=False) == 0
    described = json.loads(capsys.readouterr().out)["properties"]
    assert described["root"]["description"]


def test_reader_of_stdout_that_leaves_early_is_no_error() -> None:
    shell = f"{sys.executable} -m histodiff schema site | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == ""


def test_doctor_json_has_every_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = app(["doctor", "--json", f"site.root={tmp_path}"], standalone_mode=False)
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert {"python", "g++", "git", "make", "python headers", "torch", "root"} <= set(checks)
    failed = [name for name, check in checks.items() if check["required"] and not check["ok"]]
    assert code == (2 if failed else 0)
