import math

import pytest

from histodiff.storage import storage_path
from histodiff.training import DivergenceConfig, TrainConfig
from histodiff.training.rollbacks import (
    batch_of,
    loss_limit,
    median_steps,
    passed_over,
    read_rollbacks,
    rollback_of,
    write_rollbacks,
)


def train(**changes) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "images": 1000, "batch": 10, "micro_batch": 10, "precision": "fp32",
            "optimizer": {"type": "adamw", "lr": 1}, "ema": {"half_lives_images": [100]},
            "rate": {"warmup_images": 0, "shape": "constant"},
            "log_images": 100, "checkpoint_images": 500,
            "on_divergence": {"action": "roll_back", "pass_over_images": 30, **changes},
        }
    )  # fmt: skip


@pytest.mark.parametrize("passed", [set(), {0}, {3, 4, 5}, {0, 1, 7}, set(range(2, 30, 2))])
def test_batch_of_counts_the_batches_that_are_not_passed_over(passed):
    remaining = [number for number in range(100) if number not in passed]
    assert [batch_of(step, passed) for step in range(50)] == remaining[:50]


def test_rollback_passes_over_whole_batches_up_to_the_bad_one():
    rollback = rollback_of(20, loss=9.0, limit=5.0, train=train(), rollbacks=[])
    assert (rollback.back_to_step, rollback.first_batch, rollback.last_batch) == (18, 18, 20)
    at_once = rollback_of(1, loss=math.inf, limit=5.0, train=train(), rollbacks=[])
    assert (at_once.back_to_step, at_once.first_batch, at_once.last_batch) == (0, 0, 1)
    assert math.isnan(at_once.loss)


def test_second_rollback_leaves_the_steps_before_it_as_they_were():
    first = rollback_of(20, loss=9.0, limit=5.0, train=train(), rollbacks=[])
    second = rollback_of(19, loss=9.0, limit=5.0, train=train(), rollbacks=[first])
    once, twice = passed_over([first]), passed_over([first, second])
    assert second.back_to_step == 17
    for step in range(second.back_to_step):
        assert batch_of(step, once) == batch_of(step, twice)
    seen_in_vain = {batch_of(step, once) for step in range(17, 20)}
    assert seen_in_vain <= twice


def test_loss_limit_is_a_multiple_of_the_median_once_there_are_enough():
    config = DivergenceConfig(spike_factor=3, median_images=50)
    assert median_steps(config, batch=10) == 5
    assert loss_limit([1.0] * 4, config, batch=10) == math.inf
    assert loss_limit([1.0, 2.0, 8.0, 2.0, 1.0], config, batch=10) == 6.0
    assert loss_limit([1.0] * 9, DivergenceConfig(), batch=10) == math.inf


def test_rollbacks_written_are_read_back(tmp_path):
    folder = storage_path(tmp_path)
    assert read_rollbacks(folder) == []
    rollbacks = [rollback_of(20, loss=9.0, limit=math.inf, train=train(), rollbacks=[])]
    write_rollbacks(folder, rollbacks)
    assert read_rollbacks(folder) == rollbacks
