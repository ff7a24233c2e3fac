"""The training loss of a denoiser on one micro-batch.

Legend: B batch, C channels, H height, W width.
"""

from typing import Literal

import torch

from histodiff.diffusion import Preconditioning, WeightingConfig, training_loss
from histodiff.models.denoiser import TrainingOutput
from histodiff.pretraining.alignment import Alignment
from histodiff.pretraining.posterior import CleanAndNoise

Estimates = Literal["none", "chosen", "whole_batch"]
"""How estimates for self-conditioning are made: not at all; of the `chosen` samples, which is least
work; or of the `whole_batch`, which has one shape for a compiler and asks nothing of a GPU."""


def micro_loss(
    denoise: torch.nn.Module,
    *,
    part: CleanAndNoise,
    preconditioning: Preconditioning,
    weighting: WeightingConfig,
    estimates: Estimates = "none",
    alignment: Alignment | None = None,
) -> torch.Tensor:
    """Mean training loss of one micro-batch: unweighted as a value, weighted as a gradient."""
    sigma_B = preconditioning.training_sigma(part.uniform_B).float()
    noisy_BCHW = part.clean_BCHW + sigma_B.reshape(-1, 1, 1, 1) * part.noise_BCHW
    previous_BCHW = (
        None
        if estimates == "none"
        else first_estimates(
            denoise, noisy_BCHW, sigma_B, part.conditioned_B, whole=estimates == "whole_batch"
        )
    )
    found: TrainingOutput = denoise(
        noisy_BCHW, sigma_B, previous_BCHW=previous_BCHW, output="training"
    )
    loss = training_loss(
        preconditioning.loss(found.denoised_BCHW, part.clean_BCHW, sigma_B),
        sigma_B,
        weighting=weighting,
        preconditioning=preconditioning,
        uncertainty_B=found.uncertainty_B,
    )
    if alignment is None:
        return loss
    assert found.projected_BFHW is not None
    aligned = alignment.weight * alignment.loss(part.clean_BCHW, found.projected_BFHW)
    return loss + (aligned - aligned.detach())


@torch.no_grad()
def first_estimates(
    denoise: torch.nn.Module,
    noisy_BCHW: torch.Tensor,
    sigma_B: torch.Tensor,
    conditioned_B: torch.Tensor,
    *,
    whole: bool,
) -> torch.Tensor:
    """What the network makes of the samples that are shown it, and zeros; without a gradient."""
    shown_BCHW = torch.zeros_like(noisy_BCHW)
    if whole:
        shown_B111 = conditioned_B.reshape(-1, 1, 1, 1)
        return torch.where(shown_B111, denoise(noisy_BCHW, sigma_B), shown_BCHW)
    rows = conditioned_B.nonzero().flatten()
    if not len(rows):  # under ZeRO-3 every rank must make as many forward passes
        denoise(noisy_BCHW[:1], sigma_B[:1])
        return shown_BCHW
    shown_BCHW[rows] = denoise(noisy_BCHW[rows], sigma_B[rows])
    return shown_BCHW
