"""The Bayes classifier that a conditional denoiser is: classes by how well they denoise.

For the noisy latent x at level sigma and more noise of variance v, ``x_v = x + sqrt(v) n`` lies at
level ``s = sqrt(sigma^2 + v)``, and the denoiser of class y says what x was:

    x_y(x_v) = x_v - v (x_v - D(x_v; s, y)) / s^2                               (Tweedie's formula)
    log p(x | y) = const - 1/2 integral E_n |x - x_y(x_v)|^2 dv / v^2

the second by Kong et al. 2023 (arXiv 2302.03792, Eq. 9; snr = 1 / v): the bound of diffusion
classifiers (Li et al. 2023, arXiv 2303.16203) with the weights under which it is exact, for every
noise level and not for clean latents alone. The same noise serves all classes, and always with its
negative, so that what is common to the classes drops out. Legend: B batch, C channels, H height, W
width, K classes.
"""

import math
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from histodiff.config import Config
from histodiff.runtime import generator_for

ClassDenoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``D(x_BCHW, sigma_B, class_B)``: the expected clean latent of a class."""
_FIRST = 0.1
"""The least noise that is added, over the noise that is there."""


class BayesConfig(Config):
    """How many denoising losses the Bayes classifier takes: ``2 levels pairs`` for each class."""

    levels: int = Field(default=8, ge=1)
    """Noise levels above that of the latent, even in the logarithm of the added variance."""
    pairs: int = Field(default=1, ge=1)
    """Pairs of opposite noises at each of them."""


def class_log_probabilities(
    denoise: ClassDenoise,
    x_BCHW: Tensor,
    sigma_B: Tensor,
    *,
    num_classes: int,
    config: BayesConfig,
    sigma_range: tuple[float, float],
) -> Tensor:
    """``log p(k | x; sigma)`` of shape (B, K), fp32, all classes being as likely beforehand.

    The noise is the same for every sample, so that none depends on the others.

    Args:
        denoise: Denoisers of the classes.
        x_BCHW: Noisy latents.
        sigma_B: Their noise levels.
        num_classes: K.
        config: How many losses.
        sigma_range: Lowest and highest noise level that the denoisers know.
    """
    lowest, highest = sigma_range
    sigma_B = sigma_B.double().clamp(max=highest / 2)
    first_B = (_FIRST * sigma_B).clamp_min(lowest).square()
    width_B = ((highest**2 - sigma_B**2) / first_B).log() / config.levels
    score_BK = torch.zeros(len(x_BCHW), num_classes, dtype=torch.float64, device=x_BCHW.device)
    for level in range(config.levels):
        added_B = first_B * ((level + 0.5) * width_B).exp()
        for pair in range(config.pairs):
            noise_CHW = _noise(x_BCHW, level * config.pairs + pair)
            for sign in (1.0, -1.0):
                error_BK = _errors(
                    denoise, x_BCHW, sigma_B, added_B, sign * noise_CHW, num_classes=num_classes
                )
                # dv / v^2 is d(log v) / v; a pair has two noises
                weight_B = width_B / added_B / (4 * config.pairs)
                score_BK -= weight_B[:, None] * error_BK
    return score_BK.log_softmax(dim=1).float()


def _errors(
    denoise: ClassDenoise,
    x_BCHW: Tensor,
    sigma_B: Tensor,
    added_B: Tensor,
    noise_CHW: Tensor,
    *,
    num_classes: int,
) -> Tensor:
    """``|x - x_k(x_v)|^2`` (B, K) of one noise, less its mean over the classes, fp64."""
    level_B = (sigma_B**2 + added_B).sqrt()
    more_BCHW = x_BCHW + added_B.sqrt().reshape(-1, 1, 1, 1).to(x_BCHW) * noise_CHW
    share_B111 = (added_B / level_B**2).reshape(-1, 1, 1, 1)
    errors = []
    for label in range(num_classes):
        class_B = torch.full((len(x_BCHW),), label, device=x_BCHW.device)
        denoised_BCHW = denoise(more_BCHW, level_B.to(x_BCHW), class_B).double()
        known_BCHW = more_BCHW.double() - share_B111 * (more_BCHW.double() - denoised_BCHW)
        errors.append((x_BCHW.double() - known_BCHW).square().sum(dim=(1, 2, 3)))
    error_BK = torch.stack(errors, dim=1)
    return error_BK - error_BK.mean(dim=1, keepdim=True)


def _noise(x_BCHW: Tensor, number: int) -> Tensor:
    shape = tuple(x_BCHW.shape[1:])
    drawn = generator_for(0, "bayes-classifier", number).standard_normal(math.prod(shape))
    return torch.from_numpy(drawn).reshape(shape).to(x_BCHW)
