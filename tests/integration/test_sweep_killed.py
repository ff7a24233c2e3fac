"""A sweep that is killed, twice, without a chance to say so: every trial is done exactly once."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from histodiff.artifacts import Reference, open_artifact
from histodiff.storage import storage_path
from histodiff.workflows import registry
from histodiff.workflows.sweep import sweep
from histodiff.workflows.sweep.trial_table import TABLE, read_trials
from tests.support import sweep_driver
from tests.support.toy_commands import SourceConfig, source

SWEEP = Reference("sweeps/s@1")


def driver(root: Path, ray: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.sweep_driver", str(root), ray],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def noted(root: Path, word: str) -> list[str]:
    log = root / sweep_driver.LOG
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split()[1] for line in lines if line.startswith(word)]


def kill_midway(root: Path, ray: str) -> None:
    """Kills the driver as soon as one more trial is at work than was before it."""
    before = len(noted(root, "begun"))
    (root / sweep_driver.HOLD).touch()
    running = driver(root, ray)
    deadline = time.monotonic() + 120
    while len(noted(root, "begun")) < max(3, before + 1):
        assert running.poll() is None, "the driver ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    (root / sweep_driver.HOLD).unlink()


@pytest.mark.slow
@pytest.mark.parametrize("ray", ["none", pytest.param("local", marks=pytest.mark.ray)])
def test_sweep_killed_twice_does_every_trial_exactly_once(tmp_path, monkeypatch, ray):
    root = tmp_path / "killed"
    root.mkdir()
    for _ in range(2):
        kill_midway(root, ray)
    assert driver(root, ray).wait() == 0
    rows = read_trials(open_artifact(storage_path(str(root)), SWEEP).path)
    classifiers = {row.artifact for row in rows if row.command == "classify"}
    ended = Counter(noted(root, "ended"))
    assert {f"classifiers/{name}@1" for name in ended} == classifiers
    assert set(ended.values()) == {1}
    assert len(noted(root, "begun")) == len(ended) + 2  # one more for each death
    assert {row.error for row in rows} == {None}
    monkeypatch.setattr(registry, "COMMANDS", dict(registry.COMMANDS))
    sweep_driver.use_commands(registry.COMMANDS)
    quiet = sweep_driver.site(tmp_path / "quiet", "none")
    source(SourceConfig(name="t", version="1", text="x"), quiet)
    undisturbed = sweep(sweep_driver.config(), quiet)
    assert (undisturbed.path / TABLE).read_bytes() == (
        open_artifact(storage_path(str(root)), SWEEP).path / TABLE
    ).read_bytes()
