import math

import numpy as np
import pytest
import torch

from histodiff.diffusion import (
    DdpmSchedule,
    EpsilonObjective,
    KarrasSchedule,
    create_preconditioning,
    noise_levels,
    sample,
)
from histodiff.diffusion.samplers import (
    DdimSampler,
    DpmSolverSampler,
    Estimate,
    EulerSampler,
    HeunSampler,
    HeunStochasticSampler,
    dpm_solver_step,
)
from tests.support.samplers import SAMPLERS, name_of

SHAPE = (3, 4, 4)
EPSILON = create_preconditioning(EpsilonObjective(type="epsilon"))


def normal(*, seed, count, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, *SHAPE), generator=generator, dtype=dtype)


def step_noise(count):
    return lambda step: normal(seed=1000 + step, count=count)


def gaussian_denoiser(mean, std):
    """The exact D for data N(mean, std^2): Karras et al. 2022, Eq. 57 for one Gaussian."""

    def denoise(x, sigma):
        variance = sigma.reshape(-1, 1, 1, 1) ** 2
        return (std**2 * x + variance * mean) / (std**2 + variance)

    return denoise


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name_of)
def test_sample_of_a_gaussian_has_its_mean_and_std(sampler):
    mean, std, count = 1.5, 0.7, 400
    sigmas = noise_levels(KarrasSchedule(type="karras", steps=300, sigma_max=80.0), EPSILON)
    drawn = sample(
        gaussian_denoiser(mean, std), sigmas=sigmas, sampler=sampler,
        noise_B=normal(seed=0, count=count), step_noise=step_noise(count),
    )  # fmt: skip
    standard_error = std / math.sqrt(drawn.numel())
    assert drawn.mean().item() == pytest.approx(mean, abs=0.01 + 4 * standard_error)
    assert drawn.std().item() == pytest.approx(std, rel=0.03)


def test_heun_converges_at_second_order_and_euler_at_first():
    mean, std = 0.5, 0.8
    start = normal(seed=1, count=2)

    def error(sampler, steps):
        sigmas = noise_levels(
            KarrasSchedule(type="karras", steps=steps, sigma_max=20.0, sigma_min=0.5), EPSILON
        )[:-1]  # without the last step to zero, which is Euler in both
        drawn = sample(
            gaussian_denoiser(mean, std), sigmas=sigmas, sampler=sampler,
            noise_B=start, step_noise=step_noise(2),
        )  # fmt: skip
        # The exact flow of a Gaussian keeps (x - mean) / sqrt(std^2 + sigma^2).
        shrunk = math.sqrt((std**2 + 0.5**2) / (std**2 + 20.0**2))
        return (drawn - (mean + (20.0 * start - mean) * shrunk)).abs().max().item()

    euler = error(EulerSampler(type="euler"), 40) / error(EulerSampler(type="euler"), 80)
    heun = error(HeunSampler(type="heun"), 40) / error(HeunSampler(type="heun"), 80)
    assert euler == pytest.approx(2, rel=0.15)
    assert heun == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver_converges_at_its_order(order):
    mean, std, high, low = 0.5, 0.8, 200.0, 0.5
    start = normal(seed=1, count=2)
    sampler = DpmSolverSampler(type="dpm_solver", order=order, eta=0.0)

    def error(steps):
        schedule = KarrasSchedule(type="karras", steps=steps, sigma_max=high, sigma_min=low)
        drawn = sample(
            gaussian_denoiser(mean, std), sigmas=noise_levels(schedule, EPSILON)[:-1],
            sampler=sampler, noise_B=start, step_noise=step_noise(2),
        )  # fmt: skip
        shrunk = math.sqrt((std**2 + low**2) / (std**2 + high**2))
        return (drawn - (mean + (high * start - mean) * shrunk)).abs().max().item()

    assert error(160) / error(320) == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_dpm_solver_step_integrates_the_polynomial_through_its_estimates(eta, count):
    levels, following = [2.0, 2.9, 3.7][:count], 1.3
    clean = [normal(seed=seed, count=1) for seed in range(count)]
    x, rate = normal(seed=9, count=1), 1 + eta
    estimates = [Estimate(value, level) for value, level in zip(clean, levels, strict=True)]
    ours, added = dpm_solver_step(x, estimates, following, eta=eta)

    lambdas, end = [-math.log(level) for level in levels], -math.log(following)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    width = end - lambdas[0]
    total = math.exp(-rate * width) * x
    for node, weight in zip(nodes, weights, strict=True):
        place = lambdas[0] + (node + 1) / 2 * width
        polynomial = sum(
            value * math.prod((place - b) / (a - b) for b in lambdas if b != a)
            for value, a in zip(clean, lambdas, strict=True)
        )
        total = total + weight * width / 2 * rate * math.exp(-rate * (end - place)) * polynomial
    torch.testing.assert_close(ours, total, rtol=1e-10, atol=1e-10)
    assert added == pytest.approx(following * math.sqrt(1 - math.exp(-2 * eta * width)))


def naive_ddim(predict_noise, start, timesteps, alpha_bar, eta, noises):
    """Song et al. 2021, Eq. 12 and 16, literally, in the coordinates of DDPM."""
    z = start
    for position, t in enumerate(timesteps):
        last = position + 1 == len(timesteps)
        now, then = alpha_bar[t], 1.0 if last else alpha_bar[timesteps[position + 1]]
        noise = predict_noise(z, t)
        clean = (z - math.sqrt(1 - now) * noise) / math.sqrt(now)
        spread = eta * math.sqrt((1 - then) / (1 - now)) * math.sqrt(1 - now / then)
        direction = math.sqrt(max(1 - then - spread**2, 0)) * noise
        z = math.sqrt(then) * clean + direction + spread * noises(position)
    return z


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_equals_the_textbook_in_alpha_bar_form(eta, steps):
    roots = np.linspace(math.sqrt(0.0015), math.sqrt(0.0155), 1000)
    alpha_bar = np.cumprod(1 - roots**2)
    timesteps = [int(t) + 1 for t in range(0, 1000, 1000 // steps)][::-1]

    def predict_noise(z, t):
        return torch.tanh(0.7 * z + 0.1 * z.roll(1, dims=-1)) * (0.5 + t / 2000)

    def denoise(x, sigma):
        t = EPSILON.c_noise(sigma)[0].round().item()
        z = EPSILON.c_in(sigma).reshape(-1, 1, 1, 1) * x
        return x - sigma.reshape(-1, 1, 1, 1) * predict_noise(z, t)

    sigmas = noise_levels(DdpmSchedule(type="ddpm", steps=steps), EPSILON)
    noise = normal(seed=3, count=2)
    ours = sample(
        denoise, sigmas=sigmas, sampler=DdimSampler(type="ddim", eta=eta),
        noise_B=noise, step_noise=step_noise(2),
    )  # fmt: skip
    start = sigmas[0] * noise * math.sqrt(alpha_bar[timesteps[0]])
    textbook = naive_ddim(predict_noise, start, timesteps, alpha_bar, eta, step_noise(2))
    torch.testing.assert_close(ours, textbook, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name_of)
def test_sample_does_not_depend_on_how_the_batch_is_split(sampler):
    sigmas = noise_levels(KarrasSchedule(type="karras", steps=5), EPSILON)
    noise = normal(seed=4, count=4)
    noises = [normal(seed=50 + step, count=4) for step in range(5)]

    def drawn(part):
        return sample(
            gaussian_denoiser(0.3, 0.9), sigmas=sigmas, sampler=sampler,
            noise_B=noise[part], step_noise=lambda step: noises[step][part],
        )  # fmt: skip

    halves = torch.cat([drawn(slice(0, 2)), drawn(slice(2, 4))])
    assert torch.equal(drawn(slice(0, 4)), halves)


def test_deterministic_samplers_never_ask_for_noise():
    def refuse(step):
        raise AssertionError(step)

    sigmas = noise_levels(KarrasSchedule(type="karras", steps=4), EPSILON)
    for sampler in (SAMPLERS[0], SAMPLERS[1], SAMPLERS[3]):
        drawn = sample(
            gaussian_denoiser(0.0, 1.0), sigmas=sigmas, sampler=sampler,
            noise_B=normal(seed=0, count=1), step_noise=refuse,
        )  # fmt: skip
        assert torch.isfinite(drawn).all()


def naive_edm(denoise, start, sigmas, sampler, noises):
    """Karras et al. 2022, Algorithm 2, line by line."""
    x, steps = start * sigmas[0], len(sigmas) - 1
    for i in range(steps):
        t, following = sigmas[i], sigmas[i + 1]
        inside = sampler.churn_min <= t <= sampler.churn_max
        gamma = min(sampler.churn / steps, math.sqrt(2) - 1) if inside else 0.0
        raised = t + gamma * t
        x = x + math.sqrt(raised**2 - t**2) * sampler.noise_scale * noises(i)
        slope = (x - denoise(x, torch.full((len(x),), raised, dtype=x.dtype))) / raised
        euler = x + (following - raised) * slope
        if following == 0:
            x = euler
            continue
        other = (euler - denoise(euler, torch.full((len(x),), following, dtype=x.dtype))) / (
            following
        )
        x = x + (following - raised) * (slope / 2 + other / 2)
    return x


@pytest.mark.parametrize("churn", [0.0, 5.0, 100.0])
def test_heun_stochastic_equals_algorithm_2(churn):
    sampler = HeunStochasticSampler(
        type="heun_stochastic", churn=churn, churn_min=0.1, churn_max=20.0, noise_scale=1.01
    )
    sigmas = noise_levels(KarrasSchedule(type="karras", steps=12, sigma_max=80.0), EPSILON)

    def denoise(x, sigma):
        return torch.tanh(x) / (1 + sigma.reshape(-1, 1, 1, 1))

    noise = normal(seed=6, count=2)
    ours = sample(denoise, sigmas=sigmas, sampler=sampler, noise_B=noise, step_noise=step_noise(2))
    expected = naive_edm(denoise, noise, sigmas.tolist(), sampler, step_noise(2))
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "sampler",
    [
        HeunStochasticSampler(type="heun_stochastic", churn=60.0, churn_min=0.0, noise_scale=1.0),
        DdimSampler(type="ddim", eta=1.0),
    ],
    ids=name_of,
)
@pytest.mark.parametrize("last", [0.3, 2.0])
def test_stochastic_sampler_keeps_the_marginal_at_every_level(sampler, last):
    # x at sigma is N(mean, std^2 + sigma^2); noise that is not compensated would widen it.
    mean, std, count = 0.7, 0.6, 600
    sigmas = noise_levels(
        KarrasSchedule(type="karras", steps=200, sigma_max=10.0, sigma_min=last), EPSILON
    )[:-1]
    start = mean / 10.0 + math.sqrt(std**2 + 100) / 10.0 * normal(seed=8, count=count)
    drawn = sample(
        gaussian_denoiser(mean, std), sigmas=sigmas, sampler=sampler, noise_B=start,
        step_noise=step_noise(count),
    )  # fmt: skip
    expected = math.sqrt(std**2 + last**2)
    standard_error = expected / math.sqrt(drawn.numel())
    assert drawn.mean().item() == pytest.approx(mean, abs=5 * standard_error)
    assert drawn.std().item() == pytest.approx(expected, rel=0.01)


def test_ancestral_ddim_over_all_levels_equals_algorithm_2_of_ddpm():
    # Ho et al. 2020, Algorithm 2, with the posterior variance, from a table of betas.
    levels = 40
    betas = np.linspace(math.sqrt(0.0015), math.sqrt(0.0155), levels) ** 2
    alphas, bars = 1 - betas, np.cumprod(1 - betas)

    def predict_noise(z, t):
        return torch.sin(z) * (0.5 + t / levels)

    scales = create_preconditioning(EpsilonObjective(type="epsilon", num_timesteps=levels))

    def denoise(x, sigma):
        t = scales.c_noise(sigma)[0].round().item()
        return x - sigma.reshape(-1, 1, 1, 1) * predict_noise(
            scales.c_in(sigma).reshape(-1, 1, 1, 1) * x, t
        )

    sigmas = torch.tensor([*np.sqrt((1 - bars) / bars)[::-1], 0.0])
    noise = normal(seed=9, count=2)
    ours = sample(
        denoise, sigmas=sigmas, sampler=DdimSampler(type="ddim", eta=1.0), noise_B=noise,
        step_noise=step_noise(2),
    )  # fmt: skip
    z = noise * float(sigmas[0]) * math.sqrt(bars[-1])
    for number, t in enumerate(reversed(range(levels))):
        before = bars[t - 1] if t else 1.0
        variance = (1 - before) / (1 - bars[t]) * betas[t]
        mean = (z - betas[t] / math.sqrt(1 - bars[t]) * predict_noise(z, t)) / math.sqrt(alphas[t])
        z = mean + (math.sqrt(variance) * step_noise(2)(number) if t else 0.0)
    torch.testing.assert_close(ours, z, rtol=1e-9, atol=1e-9)
