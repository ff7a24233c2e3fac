"""Weights on the training loss over noise levels, as config chosen by tag.

An objective's own loss is the error of the network's output (``Preconditioning.loss``). A weighting
changes what is optimized, never what is reported: ``training_loss`` has the value of the
objective's own loss and the gradient of the weighted one, so curves of different weightings
compare. Legend: B batch.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from histodiff.config import Config
from histodiff.diffusion.preconditioning import Preconditioning


class UniformWeighting(Config):
    """The objective's own loss: the error of the network's output (Karras et al. 2022, Eq. 8)."""

    type: Literal["uniform"]


class MinSnrWeighting(Config):
    """Min-SNR-gamma (Hang et al. 2023, Eq. 7): the error of ``D`` weighted ``min(SNR, gamma)``.

    With ``SNR = s^2 / sigma^2`` for data of standard deviation s, and the network's error being
    that of ``D`` over ``c_out``, the weight of the network's error is

        w(sigma) = c_out^2 min(SNR, gamma) / s^2

    which is their ``min(SNR, gamma) / SNR`` for `epsilon` (c_out^2 = sigma^2), their
    ``min(SNR, gamma) / (SNR + 1)`` for `v` and the same for `edm`, and
    ``min(SNR, gamma) sigma^2 / (1 + sigma)^2`` for `flow`. An `l1` error gets the root of it: the
    error is scaled alike, whatever its norm.
    """

    type: Literal["min_snr"]
    gamma: float = Field(default=5.0, gt=0)
    """Largest weight of the error of ``D``."""


class UncertaintyWeighting(Config):
    """Learned uncertainty (Karras et al. 2024, EDM2, Eq. 14 ff.): ``exp(-u) L + u``, u of sigma.

    The best ``u(sigma)`` is the logarithm of the mean loss at ``sigma``, so that every noise level
    counts alike. It trains with the network and is saved with it.
    """

    type: Literal["uncertainty"]
    channels: int = Field(default=128, ge=2)
    """Fourier features of sigma that ``u`` is linear in."""


WeightingConfig = Annotated[
    UniformWeighting | MinSnrWeighting | UncertaintyWeighting, Field(discriminator="type")
]


def training_loss(
    loss_B: Tensor,
    sigma_B: Tensor,
    *,
    weighting: WeightingConfig,
    preconditioning: Preconditioning,
    uncertainty_B: Tensor | None,
) -> Tensor:
    """Scalar with the value of the mean of ``loss_B`` and the gradient of its weighted mean.

    Args:
        loss_B: The objective's own loss of each sample.
        sigma_B: Noise levels.
        weighting: How they count.
        preconditioning: That of the objective.
        uncertainty_B: ``u(sigma)`` of the samples; None unless ``weighting`` learns it.
    """
    match weighting:
        case UniformWeighting():
            return loss_B.mean()
        case MinSnrWeighting():
            weighted_B = min_snr_weight(sigma_B, weighting, preconditioning) * loss_B
        case UncertaintyWeighting():
            assert uncertainty_B is not None
            weighted_B = (-uncertainty_B).exp() * loss_B + uncertainty_B
    optimized = weighted_B.mean()
    return optimized + (loss_B.mean() - optimized).detach()


def min_snr_weight(
    sigma_B: Tensor, weighting: MinSnrWeighting, preconditioning: Preconditioning
) -> Tensor:
    """Weight of the network's error at ``sigma_B``, of its shape and type."""
    sigma, variance = sigma_B.double(), preconditioning.data_std**2
    capped = (variance / sigma**2).clamp(max=weighting.gamma)
    weight = preconditioning.c_out(sigma) ** 2 * capped / variance
    root = weight.sqrt() if preconditioning.error == "l1" else weight
    return root.to(sigma_B.dtype)
