"""Speed and MFU from counts and times; what the driver is shown."""

import pytest

from histodiff.pretraining.monitor import Machine
from histodiff.pretraining.spec import Speed, TrainingProgress
from histodiff.training import TimingRow

TIMING = TimingRow(step=10, seconds=4.0, data_wait_seconds=1.0)


def test_speed_is_of_all_ranks_and_mfu_of_one():
    machine = Machine(world_size=2, training_flops=50, peak_flops=1000.0, mfu_note=None)
    speed = machine.speed(80, TIMING)
    # 20 images/s in all: 10 on this rank, 500 FLOP/s, half of what it could do
    assert speed == Speed(images_per_second=20.0, data_wait_share=0.25, mfu=0.5)


def test_mfu_of_an_unknown_device_is_not_reported():
    machine = Machine(world_size=1, training_flops=50, peak_flops=None, mfu_note="set it")
    assert machine.speed(80, TIMING).mfu is None


@pytest.mark.parametrize(
    ("speed", "shown"),
    [
        (None, {"loss": 0.5}),
        (Speed(20.0, 0.25, 0.5), {"loss": 0.5, "mfu": 0.5, "data_wait": 0.25}),
        (Speed(20.0, 0.25, None), {"loss": 0.5, "data_wait": 0.25}),
    ],
)
def test_driver_is_shown_what_is_known(speed, shown):
    assert TrainingProgress(64, 0.5, speed).fields == shown
