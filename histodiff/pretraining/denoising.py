"""The denoiser that training begins with, and its loss on one micro-batch.

Legend: B batch, C channels, H height, W width.
"""

import torch

from histodiff.diffusion import Preconditioning
from histodiff.models.denoiser import Denoiser
from histodiff.pretraining.draws import CleanAndNoise
from histodiff.pretraining.spec import PretrainSpec
from histodiff.runtime import derived_seed


def micro_loss(
    denoise: torch.nn.Module, *, part: CleanAndNoise, preconditioning: Preconditioning
) -> torch.Tensor:
    """Mean training loss of one micro-batch."""
    sigma_B = preconditioning.training_sigma(part.uniform_B).float()
    noisy_BCHW = part.clean_BCHW + sigma_B.reshape(-1, 1, 1, 1) * part.noise_BCHW
    loss_B = preconditioning.loss(denoise(noisy_BCHW, sigma_B), part.clean_BCHW, sigma_B)
    return loss_B.mean()


def first_denoiser(spec: PretrainSpec, latent_shape: tuple[int, int, int]) -> Denoiser:
    """The denoiser with its first weights, drawn on the CPU and so the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(spec.seed, "denoiser-weights"))
        denoiser = Denoiser(spec.denoiser, latent_shape=latent_shape, device=spec.device).train()
    if spec.train.activation_checkpointing:
        denoiser.unet.enable_gradient_checkpointing()
    if spec.train.compile:
        denoiser.unet.compile(dynamic=False)
    return denoiser
