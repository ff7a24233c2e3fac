import re
import time
from importlib import import_module

import pytest

from histodiff.telemetry import progress


def test_progress_off_a_terminal_ends_with_a_plain_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress("encode", total=4, unit="patches") as bar:
        for _ in range(4):
            bar.advance(loss=0.5)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(
        r"encode: 4/4 patches, \S+ patches/s, 0:00 elapsed, done loss=0\.5\n", shown.err
    )


def test_progress_resumed_counts_position_but_not_rate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress("encode", total=10, unit="patches", already=10):
        pass
    assert capsys.readouterr().err.startswith("encode: 10/10 patches, 0 patches/s")


def test_progress_of_a_loop_whose_first_unit_takes_long_prints_in_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("histodiff.telemetry.progress")  # the package has a function so named
    monkeypatch.setattr(module, "PLAIN_INTERVAL_SECONDS", 0.02)
    with progress("sweep", total=3, unit="trials"):
        first, deadline = "", time.monotonic() + 10
        while not first and time.monotonic() < deadline:
            first = capsys.readouterr().err
    assert first.startswith("sweep: 0/3 trials")


def test_progress_of_a_failing_loop_lets_the_error_through() -> None:
    with pytest.raises(KeyError), progress("encode", total=1, unit="patches"):
        raise KeyError
