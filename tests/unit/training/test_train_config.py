import math

import pytest
from pydantic import ValidationError

from histodiff.errors import ConfigError
from histodiff.training import TrainConfig, deepspeed_config
from histodiff.training.learning_rate import rate_factor


def config(**changes) -> TrainConfig:
    values = {
        "images": 1000, "batch": 48, "micro_batch": 10, "precision": "fp32",
        "optimizer": {"type": "adamw", "lr": 0.5}, "rate": {"warmup_images": 96, "shape": "cosine"},
        "ema": {"half_lives_images": [100]}, "log_images": 100, "checkpoint_images": 500,
    }  # fmt: skip
    return TrainConfig.model_validate(values | changes)


def test_deepspeed_config_on_two_ranks_is_as_known():
    assert deepspeed_config(config(zero_stage=2), world_size=2, num_parameters=7) == {
        "train_batch_size": 48,
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 3,
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 7},
        "steps_per_print": 2**40,
        "wall_clock_breakdown": False,
        "zero_allow_untested_optimizer": False,
        "gradient_clipping": 1.0,
    }


def test_deepspeed_config_bf16_autocasts_and_no_clip_is_left_out():
    optimizer = {"type": "adamw", "lr": 0.5, "clip": None}
    train = config(precision="bf16", optimizer=optimizer)
    found = deepspeed_config(train, world_size=1, num_parameters=10**10)
    assert found["torch_autocast"]["dtype"] == "bfloat16"
    assert "gradient_clipping" not in found
    assert found["zero_optimization"]["reduce_bucket_size"] == 5 * 10**8


@pytest.mark.parametrize(("world_size", "micro"), [(1, 8), (2, 8), (4, 6), (12, 4), (48, 1)])
def test_micro_batch_is_the_largest_divisor_that_fits(world_size, micro):
    assert config().micro_batch_of(world_size) == micro
    found = deepspeed_config(config(), world_size=world_size, num_parameters=1)
    assert found["gradient_accumulation_steps"] * micro * world_size == 48


def test_micro_batch_world_size_that_does_not_divide_names_both_numbers():
    with pytest.raises(ConfigError, match=r"train\.batch=48 .* world size 5"):
        config().micro_batch_of(5)


def test_lr_warms_up_and_falls_to_zero_at_the_last_step():
    train = config()
    assert train.num_steps == 21
    assert train.lr_at(48) == pytest.approx(0.25)
    assert train.lr_at(96) == pytest.approx(0.5)
    middle = (96 + 21 * 48) // 2
    assert train.lr_at(middle) == pytest.approx(0.25)
    assert train.lr_at(21 * 48) == pytest.approx(0.0, abs=1e-12)


def test_rate_factor_constant_stays_and_first_step_is_not_zero():
    assert rate_factor(1, warmup=10, total=100, shape="constant") == pytest.approx(0.1)
    assert rate_factor(99, warmup=10, total=100, shape="constant") == 1.0
    assert rate_factor(1, warmup=0, total=2, shape="cosine") == pytest.approx(
        0.5 * (1 + math.cos(math.pi / 2))
    )


def test_rate_factor_inverse_sqrt_joins_the_warmup_and_needs_one():
    assert rate_factor(10, warmup=10, total=100, shape="inverse_sqrt") == 1.0
    assert rate_factor(40, warmup=10, total=100, shape="inverse_sqrt") == pytest.approx(0.5)
    with pytest.raises(ValidationError, match="warmup_images > 0"):
        config(rate={"warmup_images": 0, "shape": "inverse_sqrt"})


def test_kept_steps_are_the_newest_and_the_first_of_every_interval():
    steps = list(range(5, 101, 5))
    assert config(keep_checkpoints=3).kept_steps(steps) == {90, 95, 100}
    kept = config(keep_checkpoints=1, keep_every_images=48 * 40).kept_steps(steps)
    assert kept == {40, 80, 100}


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"loss_scale": 128.0}, "precision=fp16"),
        ({"compile": True, "zero_stage": 3}, "zero_stage to 2 or less"),
    ],
)
def test_options_that_do_not_fit_name_the_fix(changes, fix):
    with pytest.raises(ValidationError, match=fix):
        config(**changes)


def test_due_once_per_interval_and_at_the_end():
    train = config()
    due = [step for step in range(1, train.num_steps + 1) if train.is_due(step, 100)]
    seen = [step * 48 for step in due]
    assert due[-1] == train.num_steps
    assert [images // 100 for images in seen] == list(range(1, 11))


def test_warmup_longer_than_training_is_refused():
    with pytest.raises(ValidationError, match="shorten the warm-up"):
        config(rate={"warmup_images": 2000, "shape": "constant"})
