"""``bench sample``: its bare loop is the sampler, and options that cannot be used are refused."""

import re

import pytest
import torch

from histodiff.diffusion import EdmObjective, KarrasSchedule, noise_levels, sample
from histodiff.diffusion.samplers import HeunSampler
from histodiff.errors import ConfigError
from histodiff.models.denoiser import Denoiser, DenoiserConfig
from histodiff.models.unet import UNetConfig
from histodiff.workflows.bench import bench
from histodiff.workflows.bench.sample import bare_heun


def test_bare_loop_gives_what_the_sampler_gives() -> None:
    network = UNetConfig(
        type="unet", channels=(8, 16), attention_levels=(False, False), blocks_per_level=1,
        head_dim=8, norm_groups=4,
    )  # fmt: skip
    torch.manual_seed(0)
    config = DenoiserConfig(network=network, objective=EdmObjective(type="edm", sigma_data=0.7))
    denoiser = Denoiser(config, latent_shape=(4, 8, 8)).eval()
    for weights in denoiser.parameters():
        torch.nn.init.normal_(weights, std=0.1)  # the last layer of a new network is zero
    sigmas = noise_levels(KarrasSchedule(type="karras", steps=6), denoiser.preconditioning)
    noise = torch.randn(2, 4, 8, 8)
    drawn = sample(
        denoiser, sigmas=sigmas, sampler=HeunSampler(type="heun"), noise_B=noise,
        step_noise=lambda step: noise,
    )  # fmt: skip
    torch.testing.assert_close(bare_heun(denoiser, sigmas, noise), drawn, rtol=1e-3, atol=1e-3)
    assert (drawn - noise * sigmas[0]).abs().mean() > 1


@pytest.mark.parametrize(
    ("option", "fix"),
    [
        ("preset=paper", "give one of tiny, small, base"),
        ("device=tpu", "give cpu, or cuda where there is a GPU"),
        ("rounds=0", "rounds=0: give a number above zero"),
        ("batch=many", "batch=many: give a number above zero"),
    ],
)
def test_option_that_cannot_be_used_is_refused_with_what_can(option: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(fix)):
        bench("sample", ["device=cpu", option])
