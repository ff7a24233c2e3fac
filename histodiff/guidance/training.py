"""How a guide that is a classifier of noisy latents learns: batches, and the loss of step k.

The loss of step k is a function of ``(seed, k)`` alone. Legend: B batch, K classes, N rows.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from histodiff.diffusion import Preconditioning
from histodiff.guidance.labelled import LabelledLatents, NoisyBatch, noisy_batch
from histodiff.guidance.noise import NoiseConfig, noise_sigma
from histodiff.runtime import generator_for
from histodiff.training import OptimizationConfig

Logits = Callable[[Tensor, Tensor], Tensor]
"""``logits(x_BCHW, sigma_B)`` of shape (B, K)."""


class GuideTraining(OptimizationConfig):
    """How a classifier of noisy latents is trained; an image is a noisy latent."""

    noise: NoiseConfig
    """Noise levels of the training."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes; keeps gradients calibrated."""
    class_balanced: bool = True
    """Draw the class first, then a latent of it."""
    symmetries: bool = False
    """Flip and turn latents; right only for autoencoders that nearly commute with it."""


def guide_loss(
    logits: Logits,
    latents: LabelledLatents,
    *,
    training: GuideTraining,
    preconditioning: Preconditioning,
    seed: int,
    device: str,
) -> Callable[[int], Tensor]:
    """The loss of step ``k``: cross-entropy of noisy latents."""

    def loss(step: int) -> Tensor:
        batch = training_batch(
            latents,
            step,
            training=training, preconditioning=preconditioning, seed=seed,
            device=device,
        )  # fmt: skip
        return functional.cross_entropy(
            logits(batch.noisy_BCHW, batch.sigma_B),
            batch.target_B,
            label_smoothing=training.label_smoothing,
        )

    return loss


def training_batch(
    latents: LabelledLatents,
    step: int,
    *,
    training: GuideTraining,
    preconditioning: Preconditioning,
    seed: int,
    device: str = "cpu",
) -> NoisyBatch:
    """The batch of step ``k``; sample b of it has the global index ``k * batch + b``."""
    indices = range(step * training.batch, (step + 1) * training.batch)
    rows = [
        drawn_row(latents.target_N, seed=seed, index=i, balanced=training.class_balanced)
        for i in indices
    ]
    return noisy_batch(
        latents,
        rows,
        sigma_of=lambda u_B: noise_sigma(training.noise, preconditioning, u_B),
        seed=seed,
        purpose="guide",
        indices=indices,
        symmetries=training.symmetries,
        device=device,
    )


def drawn_row(target_N: npt.NDArray[np.int64], *, seed: int, index: int, balanced: bool) -> int:
    """The row that global sample ``index`` takes."""
    rng = generator_for(seed, "guide-row", index)
    if not balanced:
        return int(rng.integers(len(target_N)))
    members = np.flatnonzero(target_N == rng.choice(np.unique(target_N)))
    return int(members[rng.integers(len(members))])
