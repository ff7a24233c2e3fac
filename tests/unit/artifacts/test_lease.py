"""One driver at a time."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar

import pytest

from histodiff.artifacts import CommandConfig, Kind, Reference, begin
from histodiff.artifacts import lease as leases
from histodiff.artifacts.lease import DRIVER_FOLDER, Driver, Lease, process_start
from histodiff.cluster.session import code_environment
from histodiff.errors import ArtifactBusy
from histodiff.storage import StoragePath, list_names, storage_path, write_bytes
from histodiff.workflows.registry import COMMANDS

ELSEWHERE = replace(Driver.here(), id="b", host="node7", machine="another machine", pid=4711)
HOLDER = """
import sys
from histodiff.artifacts.lease import Lease
from histodiff.storage import storage_path
with Lease(storage_path(sys.argv[1])):
    print("holds", flush=True)
    sys.stdin.read()
"""


class ToyConfig(CommandConfig):
    artifact_kind: ClassVar[Kind] = Kind.LATENTS
    size: int

    def inputs(self) -> dict[str, Reference]:
        return {}


@pytest.fixture
def path(tmp_path: Path) -> StoragePath:
    return storage_path(tmp_path / "artifact")


def toy(size: int = 3, version: str = "v1") -> ToyConfig:
    return ToyConfig(name="toy", version=version, size=size)


def drivers(path: StoragePath) -> list[str]:
    return list_names(path / DRIVER_FOLDER)


def write_lease(path: StoragePath, driver: Driver, *, age_seconds: float = 0.0) -> Path:
    place = path / DRIVER_FOLDER / "000001.json"
    write_bytes(place, json.dumps(asdict(driver)).encode())
    then = time.time() - age_seconds
    os.utime(place.path, (then, then))
    return Path(place.path)


@contextmanager
def other_process(path: StoragePath) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lease until its stdin is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], env={**os.environ, **code_environment()},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process


def test_second_driver_is_refused_with_who_where_since_and_what_to_do(path: StoragePath) -> None:
    with other_process(path) as process:
        expected = rf"process {process.pid} on \S+, since 20\S+ \S+ UTC.*kill {process.pid} on"
        with pytest.raises(ArtifactBusy, match=expected), Lease(path):
            pass
        process.communicate("")
    assert drivers(path) == []
    with Lease(path):
        assert drivers(path) == ["000001.json"]


def test_killed_driver_of_this_machine_is_replaced_at_once(path: StoragePath) -> None:
    with other_process(path) as process:
        process.send_signal(signal.SIGKILL)
    assert drivers(path) == ["000001.json"]
    with Lease(path):
        assert drivers(path) == ["000001.json", "000002.json"]
    assert drivers(path) == []


def test_process_number_that_is_used_again_is_another_process(path: StoragePath) -> None:
    write_lease(path, replace(Driver.here(), process_started="12"))
    with Lease(path):
        assert drivers(path) == ["000001.json", "000002.json"]


def test_process_that_has_ended_but_is_not_waited_for_is_gone() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # now it is a zombie
        assert process_start(process.pid) is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_lease_is_given_back_on_errors_and_ctrl_c(
    tmp_path: Path, error: type[BaseException]
) -> None:
    draft = begin(storage_path(tmp_path), toy())
    with pytest.raises(error), draft:
        raise error(drivers(draft.path))
    assert drivers(draft.path) == []
    with draft:
        assert drivers(draft.path) == ["000001.json"]
        draft.finish({})


def test_driver_elsewhere_silent_for_a_minute_is_replaced(path: StoragePath) -> None:
    write_lease(path, ELSEWHERE, age_seconds=leases.DEAD_SECONDS + 1)
    with Lease(path):
        assert drivers(path) == ["000001.json", "000002.json"]


def test_driver_elsewhere_that_falls_silent_is_waited_for_and_this_is_said(
    path: StoragePath, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_LOOK_SECONDS", 0.01)
    write_lease(path, ELSEWHERE, age_seconds=leases.DEAD_SECONDS - 0.3)
    with caplog.at_level(logging.WARNING), Lease(path):
        pass
    assert "process 4711 on node7" in caplog.text
    assert "waiting up to 0 s" in caplog.text


def test_driver_elsewhere_that_gives_a_sign_is_left_alone(
    path: StoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_LOOK_SECONDS", 0.01)
    place, ended = write_lease(path, ELSEWHERE, age_seconds=5), threading.Event()

    def renew() -> None:
        while not ended.wait(0.02):
            os.utime(place)

    renewer = threading.Thread(target=renew)
    renewer.start()
    try:
        with pytest.raises(ArtifactBusy, match="process 4711 on node7"), Lease(path):
            pass
    finally:
        ended.set()
        renewer.join()


def test_of_many_that_take_over_one_wins(path: StoragePath) -> None:
    write_lease(path, ELSEWHERE, age_seconds=leases.DEAD_SECONDS + 1)
    together, done = threading.Barrier(8), threading.Barrier(8)

    def take(_: int) -> bool:
        together.wait()
        lease = Lease(path)
        try:
            lease.__enter__()
        except ArtifactBusy:
            done.wait()
            return False
        done.wait()
        lease.check()
        lease.__exit__()
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(take, range(8))) == 1
    assert drivers(path) == []


def test_driver_whose_lease_was_taken_over_does_not_publish(tmp_path: Path) -> None:
    draft = begin(storage_path(tmp_path), toy())
    with draft:
        write_bytes(draft.path / DRIVER_FOLDER / "000002.json", b"{}")
        with pytest.raises(ArtifactBusy, match="another driver took over"):
            draft.finish({})
    assert not (draft.path / "manifest.json").exists()
    assert drivers(draft.path) == ["000002.json"]


def test_lease_is_renewed(path: StoragePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.01)
    renewed = threading.Event()
    monkeypatch.setattr(leases, "write_bytes", lambda place, data: renewed.set())
    with Lease(path):
        assert renewed.wait(60)


def test_version_that_would_be_rebuilt_is_not_removed_under_its_driver(tmp_path: Path) -> None:
    root = storage_path(tmp_path)
    with begin(root, toy(3, "dev")) as draft, pytest.raises(ArtifactBusy, match="another driver"):
        begin(root, toy(4, "dev"))
    assert (draft.path / "plan.json").exists()


def test_artifact_finished_by_another_since_begin_is_left_as_it_is(tmp_path: Path) -> None:
    root = storage_path(tmp_path)
    late = begin(root, toy())
    with begin(root, toy()) as first:
        made = first.finish({"rows": 1})
    with pytest.raises(ArtifactBusy, match="run the same command again"), late:
        pass
    assert begin(root, toy()).finished == made
    assert drivers(made.path) == []


def test_lease_is_neither_published_nor_part_of_the_content(tmp_path: Path) -> None:
    plain = begin(storage_path(tmp_path / "plain"), toy()).finish({})
    with begin(storage_path(tmp_path / "driven"), toy()) as draft:
        driven = draft.finish({})
    assert driven.manifest.files == {}
    assert driven.manifest.content_sha256 == plain.manifest.content_sha256
    assert driven.manifest.fingerprint == plain.manifest.fingerprint


def test_every_command_that_begins_an_artifact_drives_it() -> None:
    for command in COMMANDS.values():
        package = Path(sys.modules[leases.__name__].__file__ or "").parents[1]
        flat = package / "workflows" / f"{command.name}.py"
        text = (flat if flat.exists() else flat.with_suffix("") / "command.py").read_text()
        assert text.count("= begin(") == text.count("    with draft:\n") == 1, command.name
