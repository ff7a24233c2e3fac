"""One batch, learned by heart: every objective drives its own loss far down on fixed noise."""

import pytest
import torch

from histodiff.diffusion import (
    EdmObjective,
    EpsilonObjective,
    FlowObjective,
    UncertaintyWeighting,
    VObjective,
    training_loss,
)
from histodiff.models.denoiser import Denoiser, DenoiserConfig
from histodiff.models.unet import UNetConfig

UNET = UNetConfig(
    type="unet",
    channels=(24, 32),
    attention_levels=(False, True),
    blocks_per_level=1,
    head_dim=8,
    norm_groups=8,
)
OBJECTIVES = [
    EdmObjective(type="edm"),
    EdmObjective(type="edm", weighting=UncertaintyWeighting(type="uncertainty")),
    VObjective(type="v"),
    EpsilonObjective(type="epsilon", error="l1"),
    FlowObjective(type="flow"),
]
SHARE = {"l2": 0.05, "l1": 0.25}
"""What may be left of the loss: an error of under a quarter of the target's, in either norm."""


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o.type}-{o.weighting.type}")
def test_denoiser_overfits_one_batch(objective):
    torch.manual_seed(0)
    denoiser = Denoiser(DenoiserConfig(network=UNET, objective=objective), latent_shape=(4, 8, 8))
    generator = torch.Generator().manual_seed(1)
    clean, noise = (torch.randn((4, 4, 8, 8), generator=generator) for _ in range(2))
    scales = denoiser.preconditioning
    sigma = scales.training_sigma(torch.tensor([0.2, 0.4, 0.6, 0.8]))
    noisy = clean + sigma.reshape(-1, 1, 1, 1) * noise
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=4e-3)
    losses = []
    for _ in range(60):
        found = denoiser(noisy, sigma, output="training")
        loss = training_loss(
            scales.loss(found.denoised_BCHW, clean, sigma), sigma, weighting=objective.weighting,
            preconditioning=scales, uncertainty_B=found.uncertainty_B,
        )  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(
        f"\n{objective.type:8s} {objective.weighting.type:12s} {losses[0]:.3f} -> {losses[-1]:.4f}"
    )
    assert losses[-1] < SHARE[objective.error] * losses[0]
