"""Jobs are done in order; what the storage refuses ends nothing, what is a bug is raised."""

import logging
import threading

import pytest

from histodiff.errors import TransientError
from histodiff.telemetry import Background


def refused() -> None:
    raise TransientError("no answer")


def test_jobs_are_done_in_order_and_before_close_returns() -> None:
    background, done, gate = Background("curves"), [], threading.Event()
    background.do(gate.wait)
    for number in range(20):
        background.do(lambda number=number: done.append(number))
    assert done == []
    gate.set()
    background.close()
    assert done == list(range(20))


def test_job_that_storage_refuses_is_told_once_until_another_succeeds(caplog) -> None:
    background, done = Background("curves"), []
    with caplog.at_level(logging.WARNING, logger="histodiff"):
        for job in (refused, refused, lambda: done.append(1), refused):
            background.do(job)
        background.close()
    assert done == [1]
    assert [record.getMessage() for record in caplog.records] == 2 * [
        "curves: not stored: no answer"
    ]


def test_error_of_ours_is_raised() -> None:
    background = Background("curves")
    background.do(lambda: [].pop())
    with pytest.raises(IndexError):
        background.close()
