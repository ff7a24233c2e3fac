"""The training loss of a denoiser on one micro-batch.

Legend: B batch, C channels, H height, W width.
"""

import torch

from histodiff.diffusion import Preconditioning, WeightingConfig, training_loss
from histodiff.models.denoiser import TrainingOutput
from histodiff.pretraining.posterior import CleanAndNoise


def micro_loss(
    denoise: torch.nn.Module,
    *,
    part: CleanAndNoise,
    preconditioning: Preconditioning,
    weighting: WeightingConfig,
) -> torch.Tensor:
    """Mean training loss of one micro-batch: unweighted as a value, weighted as a gradient."""
    sigma_B = preconditioning.training_sigma(part.uniform_B).float()
    noisy_BCHW = part.clean_BCHW + sigma_B.reshape(-1, 1, 1, 1) * part.noise_BCHW
    found: TrainingOutput = denoise(noisy_BCHW, sigma_B, output="training")
    return training_loss(
        preconditioning.loss(found.denoised_BCHW, part.clean_BCHW, sigma_B),
        sigma_B,
        weighting=weighting,
        preconditioning=preconditioning,
        uncertainty_B=found.uncertainty_B,
    )
