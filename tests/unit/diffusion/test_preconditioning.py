import math

import numpy as np
import pytest
import torch

from histodiff.config import parse_config
from histodiff.diffusion import (
    EdmObjective,
    EpsilonObjective,
    FlowObjective,
    VObjective,
    create_preconditioning,
)
from histodiff.errors import ConfigError

OBJECTIVES = [
    EdmObjective(type="edm"),
    VObjective(type="v"),
    EpsilonObjective(type="epsilon"),
    FlowObjective(type="flow"),
]
SIGMAS = torch.tensor([0.05, 0.3, 1.0, 7.0, 30.0], dtype=torch.float64)


def naive_alpha_bar(num_timesteps=1000, start=0.0015, end=0.0155):
    """abar_t by a plain loop, as in Ho et al. 2020 with latent diffusion's betas."""
    roots = np.linspace(math.sqrt(start), math.sqrt(end), num_timesteps)
    products, product = [], 1.0
    for root in roots:
        product *= 1 - root * root
        products.append(product)
    return np.array(products)


def latents(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 2, 4, 4)
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.randn(shape, generator=generator, dtype=torch.float64),
    )


def denoised(scales, x, sigma, network_output):
    column = sigma.reshape(-1, 1, 1, 1)
    return scales.c_skip(column) * x + scales.c_out(column) * network_output


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda item: item.type)
@pytest.mark.parametrize("error", ["l1", "l2"])
def test_loss_of_a_perfect_denoiser_is_zero_and_of_another_is_not(objective, error):
    scales = create_preconditioning(objective.model_copy(update={"error": error}))
    clean, noise = latents(len(SIGMAS))
    assert torch.equal(scales.loss(clean, clean, SIGMAS), torch.zeros(len(SIGMAS)))
    assert (scales.loss(noise, clean, SIGMAS) > 0).all()


@pytest.mark.parametrize("timestep", [0, 1, 20, 500, 981, 999])
@pytest.mark.parametrize("error", ["l1", "l2"])
def test_epsilon_equals_the_textbook_loss_and_prediction(timestep, error):
    alpha_bar = naive_alpha_bar()[timestep]
    scales = create_preconditioning(EpsilonObjective(type="epsilon", error=error))
    clean, noise = latents(1)
    guess = 0.9 * noise + 0.1 * clean
    z = math.sqrt(alpha_bar) * clean + math.sqrt(1 - alpha_bar) * noise
    sigma = torch.tensor([math.sqrt((1 - alpha_bar) / alpha_bar)], dtype=torch.float64)
    x = z / math.sqrt(alpha_bar)

    assert scales.c_noise(sigma).item() == pytest.approx(timestep, abs=1e-6)
    torch.testing.assert_close(scales.c_in(sigma).reshape(-1, 1, 1, 1) * x, z)
    textbook_clean = (z - math.sqrt(1 - alpha_bar) * guess) / math.sqrt(alpha_bar)
    ours = denoised(scales, x, sigma, guess)
    torch.testing.assert_close(ours, textbook_clean)
    difference = (guess - noise).float()
    expected = difference.abs().mean() if error == "l1" else difference.square().mean()
    torch.testing.assert_close(
        scales.loss(ours, clean, sigma), expected.reshape(1), rtol=1e-4, atol=1e-6
    )


def test_v_equals_the_textbook_loss_and_prediction():
    scales = create_preconditioning(VObjective(type="v"))
    clean, noise = latents(len(SIGMAS))
    phi = SIGMAS.atan().reshape(-1, 1, 1, 1)
    z = phi.cos() * clean + phi.sin() * noise
    v = phi.cos() * noise - phi.sin() * clean
    guess = v + 0.2 * clean
    x = z / phi.cos()
    torch.testing.assert_close(denoised(scales, x, SIGMAS, v), clean)
    loss = scales.loss(denoised(scales, x, SIGMAS, guess), clean, SIGMAS)
    expected = (guess - v).square().mean(dim=(1, 2, 3)).float()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)


def test_flow_equals_the_textbook_loss_and_prediction():
    scales = create_preconditioning(FlowObjective(type="flow"))
    clean, noise = latents(len(SIGMAS))
    time = (SIGMAS / (1 + SIGMAS)).reshape(-1, 1, 1, 1)
    z = (1 - time) * clean + time * noise
    velocity = noise - clean
    guess = velocity + 0.2 * clean
    x = z / (1 - time)
    torch.testing.assert_close(scales.c_in(SIGMAS).reshape(-1, 1, 1, 1) * x, z)
    torch.testing.assert_close(scales.c_noise(SIGMAS), 1000 * time.flatten())
    torch.testing.assert_close(denoised(scales, x, SIGMAS, velocity), clean)
    loss = scales.loss(denoised(scales, x, SIGMAS, guess), clean, SIGMAS)
    expected = (guess - velocity).square().mean(dim=(1, 2, 3)).float()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)


def test_edm_equals_table_1_of_karras():
    data = 0.5
    scales = create_preconditioning(EdmObjective(type="edm", sigma_data=data))
    for sigma in SIGMAS.tolist():
        at = torch.tensor([sigma], dtype=torch.float64)
        total = sigma**2 + data**2
        assert scales.c_skip(at).item() == pytest.approx(data**2 / total)
        assert scales.c_out(at).item() == pytest.approx(sigma * data / math.sqrt(total))
        assert scales.c_in(at).item() == pytest.approx(1 / math.sqrt(total))
        error_of_one = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        loss = scales.loss(*error_of_one, at).item()
        assert loss == pytest.approx(total / (sigma * data) ** 2)


@pytest.mark.parametrize(
    "objective", [EdmObjective(type="edm", sigma_data=0.5), VObjective(type="v")],
    ids=lambda item: item.type,
)  # fmt: skip
def test_skip_connection_is_the_best_linear_denoiser(objective):
    # Of data N(0, s^2), E[x0 | x] = s^2 x / (s^2 + sigma^2), found by least squares on a draw.
    scales = create_preconditioning(objective)
    generator = torch.Generator().manual_seed(0)
    clean = scales.data_std * torch.randn(400_000, generator=generator, dtype=torch.float64)
    noise = torch.randn(400_000, generator=generator, dtype=torch.float64)
    for sigma in (0.2, 1.0, 3.0):
        noisy = clean + sigma * noise
        slope = (clean @ noisy / (noisy @ noisy)).item()
        at = torch.tensor(sigma, dtype=torch.float64)
        assert scales.c_skip(at).item() == pytest.approx(slope, abs=0.005)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda item: item.type)
def test_loss_weight_is_that_of_the_loss(objective):
    scales = create_preconditioning(objective)
    clean, noise = latents(len(SIGMAS))
    if objective.error == "l2":
        error = (noise - clean).square().mean(dim=(1, 2, 3))
        expected = (error / scales.c_out(SIGMAS).square()).float()
        torch.testing.assert_close(scales.loss(noise, clean, SIGMAS), expected)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda item: item.type)
def test_training_sigma_lies_in_range_and_grows_with_u(objective):
    scales = create_preconditioning(objective)
    u = torch.linspace(0, 1, 1001, dtype=torch.float32)
    sigma = scales.training_sigma(u)
    assert torch.isfinite(sigma).all()
    assert (sigma > 0).all()
    assert (sigma.diff() >= 0).all()
    if objective.type != "edm":  # log-normal, without ends
        assert sigma.min() >= scales.sigma_min * (1 - 1e-5)
        assert sigma.max() <= scales.sigma_max * (1 + 1e-5)


def test_edm_training_sigma_is_log_normal():
    scales = create_preconditioning(EdmObjective(type="edm", log_mean=-1.2, log_std=1.2))
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    logarithm = scales.training_sigma(u).log()
    assert logarithm.mean().item() == pytest.approx(-1.2, abs=1e-3)
    assert logarithm.std().item() == pytest.approx(1.2, abs=2e-3)


def test_epsilon_training_sigma_visits_every_level_equally():
    scales = create_preconditioning(EpsilonObjective(type="epsilon", num_timesteps=10))
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    levels, counts = scales.training_sigma(u).unique(return_counts=True)
    assert counts.tolist() == [100] * 10
    assert scales.c_noise(levels).tolist() == pytest.approx(range(10), abs=1e-6)


def test_objective_with_crossed_range_is_refused():
    values = {"type": "edm", "sigma_min": 5.0, "sigma_max": 1.0}
    with pytest.raises(ConfigError, match="sigma_min"):
        parse_config(EdmObjective, values, source="test")
