"""What was logged can be read back from the event files."""

import pytest

from histodiff.storage import storage_path
from histodiff.telemetry.scalars import ScalarLog
from tests.support.event_files import events, points


def test_scalars_are_there_at_once_with_their_clock(tmp_path) -> None:
    log = ScalarLog(storage_path(tmp_path / "tb"), start=0)
    log.add({"loss": 0.5, "lr": 0.25}, images_seen=64)
    assert points(tmp_path / "tb") == [("loss", 64, 0.5), ("lr", 64, 0.25)]
    log.add({"loss": 0.125}, images_seen=128)
    log.close()
    assert points(tmp_path / "tb")[-1] == ("loss", 128, 0.125)


def test_remote_folder_gets_the_file(tmp_path) -> None:
    remote = storage_path("memory://histodiff-test-scalars/tb")
    log = ScalarLog(remote, start=0)
    log.add({"loss": 0.5}, images_seen=64)
    (name,) = [path.name for path in remote.iterdir()]
    (tmp_path / name).write_bytes((remote / name).read_bytes())
    assert points(tmp_path) == [("loss", 64, 0.5)]
    log.close()


def test_resumed_log_hides_what_lies_beyond_its_start(tmp_path) -> None:
    folder = storage_path(tmp_path / "tb")
    ScalarLog(folder, start=0).close()
    ScalarLog(folder, start=640).close()
    restarts = [e.step for e in events(tmp_path / "tb") if e.HasField("session_log")]
    assert sorted(restarts) == [0, 640]


@pytest.fixture(autouse=True)
def _memory_is_empty():
    yield
    storage_path("memory://histodiff-test-scalars").fs.store.clear()


def test_resumed_log_takes_back_what_lies_beyond_its_start_and_doubles_nothing(tmp_path) -> None:
    folder = storage_path(tmp_path / "tb")
    first = ScalarLog(folder, start=1)
    for clock in (64, 128, 192):
        first.add({"loss": clock / 1000, "lr": 1.0}, images_seen=clock)
    first.close()
    second = ScalarLog(folder, start=129)
    second.extend([(clock, {"loss": 9.0}) for clock in (64, 128)])  # both are there
    second.add({"loss": 0.5, "lr": 0.5}, images_seen=192)
    second.close()
    found = sorted(points(tmp_path / "tb"))
    assert [(name, clock) for name, clock, _ in found] == [
        (name, clock) for name in ("loss", "lr") for clock in (64, 128, 192)
    ]
    assert [value for _, _, value in found] == pytest.approx([0.064, 0.128, 0.5, 1, 1, 0.5])


def test_log_of_a_process_that_was_killed_in_the_middle_of_a_record_is_read(tmp_path) -> None:
    folder = tmp_path / "tb"
    first = ScalarLog(storage_path(folder), start=1)
    first.add({"loss": 0.5}, images_seen=64)
    first.add({"loss": 0.25}, images_seen=128)
    first.close()
    [torn] = folder.iterdir()
    torn.write_bytes(torn.read_bytes()[:-3])
    second = ScalarLog(storage_path(folder), start=129)
    second.extend([(64, {"loss": 0.5}), (128, {"loss": 0.25})])
    second.close()
    assert sorted(points(folder)) == [("loss", 64, 0.5), ("loss", 128, 0.25)]


def test_log_on_object_storage_is_continued(tmp_path) -> None:
    remote = storage_path("memory://histodiff-test-scalars/tb")
    for start in (1, 65):
        log = ScalarLog(remote, start=start)
        log.add({"loss": 0.5}, images_seen=64 * (start > 1) + 64)
        log.add({"loss": 0.5}, images_seen=64 * (start > 1) + 128)
        log.close()
    for path in remote.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert sorted(clock for _, clock, _ in points(tmp_path)) == [64, 128, 192]
