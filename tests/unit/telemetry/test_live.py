"""What a training says of itself can be read, and says how old it is."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from histodiff.errors import ArtifactCorrupt
from histodiff.storage import storage_path, write_bytes
from histodiff.telemetry import LiveStatus, now_utc, read_live, write_live
from histodiff.telemetry.live import LIVE

STATUS = LiveStatus(
    step=5, images_seen=80, images_total=200, ranks=2, checkpoint_step=4, loss=0.1,
    images_per_second=12.0, data_wait_share=0.0, mfu=None, mfu_note="set it", updated=now_utc(),
)  # fmt: skip


def test_status_that_was_put_is_read(tmp_path) -> None:
    artifact = storage_path(tmp_path)
    assert read_live(artifact) is None
    write_live(artifact, STATUS)
    assert read_live(artifact) == STATUS


def test_eta_is_what_is_left_at_the_present_rate() -> None:
    assert STATUS.eta_seconds == pytest.approx(10.0)
    assert dataclasses.replace(STATUS, images_per_second=None).eta_seconds is None


def test_age_is_the_time_since_the_update() -> None:
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")
    assert dataclasses.replace(STATUS, updated=hour_ago).age_seconds == pytest.approx(3600, abs=60)


@pytest.mark.parametrize("text", [b"not json", b"[]", b'{"step": 1}'])
def test_damaged_status_says_what_to_do(tmp_path, text: bytes) -> None:
    write_bytes(storage_path(tmp_path) / LIVE, text)
    with pytest.raises(ArtifactCorrupt, match="remove it"):
        read_live(storage_path(tmp_path))
