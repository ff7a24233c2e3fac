"""The straight line through a run, and the earlier run that fits."""

import pytest

from histodiff.workflows.encode.speed import EncodeSpeed, speed_of


def finishing(*, encoders, shards, rows, startup, warm, per_shard):
    """Seconds and rows of shards of ``encoders`` in step; their first shards take ``warm`` more."""
    return [
        (startup + warm + per_shard * (1 + number // encoders), rows) for number in range(shards)
    ]


@pytest.mark.parametrize("encoders", [1, 4])
def test_the_line_gives_back_what_a_run_was_made_of(encoders):
    sample = finishing(
        encoders=encoders, shards=3 * encoders, rows=100, startup=7.0, warm=2.0, per_shard=5.0
    )
    found = speed_of(sample, encoders, source="test", end_seconds=1.5)
    assert found.patches_per_second == pytest.approx(20.0 * encoders)
    assert found.startup_seconds == pytest.approx(9.0)
    whole = finishing(encoders=encoders, shards=40, rows=100, startup=7.0, warm=2.0, per_shard=5.0)
    assert found.seconds(patches=4000, shards=40, encoders=encoders) == pytest.approx(
        whole[-1][0] + 1.5
    )


def test_encoders_without_a_shard_wait_for_the_last_one():
    speed = EncodeSpeed(patches_per_second=400.0)
    assert speed.seconds(patches=500, shards=5, encoders=4) == pytest.approx(2.0)
    assert speed.seconds(patches=800, shards=8, encoders=4) == pytest.approx(2.0)


def test_too_little_gives_no_line():
    assert speed_of([(1.0, 10)], 1, source="test") is None
    assert speed_of([(1.0, 10), (2.0, 10), (3.0, 10)], 2, source="test") is None
