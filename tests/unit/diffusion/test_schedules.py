import pytest
import torch

from histodiff.config import parse_config
from histodiff.diffusion import (
    DdpmSchedule,
    EdmObjective,
    EpsilonObjective,
    KarrasSchedule,
    create_preconditioning,
    noise_levels,
)
from histodiff.errors import ConfigError

EDM = create_preconditioning(EdmObjective(type="edm"))
EPSILON = create_preconditioning(EpsilonObjective(type="epsilon"))


@pytest.mark.parametrize("steps", [1, 2, 18, 50])
@pytest.mark.parametrize("kind", ["karras", "leading", "trailing"])
def test_noise_levels_fall_to_zero(steps, kind):
    schedule = (
        KarrasSchedule(type="karras", steps=steps)
        if kind == "karras"
        else DdpmSchedule(type="ddpm", steps=steps, spacing=kind)
    )
    levels = noise_levels(schedule, EDM)
    assert levels.shape == (steps + 1,)
    assert levels.dtype == torch.float64
    assert levels[-1] == 0
    assert (levels.diff() < 0).all()


def test_karras_levels_equal_equation_5():
    levels = noise_levels(KarrasSchedule(type="karras", steps=5), EDM)
    highest, lowest, rho = 80.0, 0.002, 7.0
    for number in range(5):
        base = highest ** (1 / rho) + number / 4 * (lowest ** (1 / rho) - highest ** (1 / rho))
        assert levels[number].item() == pytest.approx(base**rho)


def test_ddpm_leading_levels_are_those_of_latent_diffusion():
    levels = noise_levels(DdpmSchedule(type="ddpm", steps=50), EPSILON)
    timesteps = EPSILON.c_noise(levels[:-1])
    expected = list(range(981, 0, -20))
    assert timesteps.tolist() == pytest.approx(expected, abs=1e-6)


def test_ddpm_trailing_levels_start_at_the_last_timestep():
    levels = noise_levels(DdpmSchedule(type="ddpm", steps=50, spacing="trailing"), EPSILON)
    assert EPSILON.c_noise(levels[:1]).item() == pytest.approx(999)
    assert levels[0].item() == pytest.approx(EPSILON.sigma_max)


def test_ddpm_with_too_many_steps_is_refused():
    with pytest.raises(ConfigError, match="num_timesteps"):
        parse_config(DdpmSchedule, {"type": "ddpm", "steps": 1000}, source="test")
