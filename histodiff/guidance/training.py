"""Training of the noise-aware latent classifier phi(x; sigma).

Unlike the released code of HistoDiffusion, phi sees the noise it will meet while sampling: with a
few labels, a classifier of clean latents gives useless gradients on noisy ones. The loss of step k
is a function of ``(seed, k)`` alone.
"""

from collections.abc import Callable

import numpy as np
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from histodiff.config import Config
from histodiff.diffusion import Preconditioning
from histodiff.guidance.latents import LabelledLatents, NoisyBatch, noisy_batch
from histodiff.guidance.noise import NoiseConfig, noise_sigma
from histodiff.models.guide import LatentClassifier
from histodiff.runtime import generator_for
from histodiff.training.fit import FitConfig


class GuideTraining(Config):
    """How the latent classifier is trained."""

    batch: int = Field(ge=1)
    """Latents per step."""
    noise: NoiseConfig
    """Noise levels of the training."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes; keeps gradients calibrated."""
    class_balanced: bool = True
    """Draw the class first, then a latent of it."""
    symmetries: bool = False
    """Flip and turn latents; right only for autoencoders that nearly commute with it."""
    fit: FitConfig
    """Optimizer and steps."""


def guide_loss(
    classifier: LatentClassifier,
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
            classifier(batch.noisy_BCHW, batch.sigma_B),
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


def drawn_row(
    target_N: np.ndarray[tuple[int], np.dtype[np.int64]], *, seed: int, index: int, balanced: bool
) -> int:
    """The row that global sample ``index`` takes."""
    rng = generator_for(seed, "guide-row", index)
    if not balanced:
        return int(rng.integers(len(target_N)))
    members = np.flatnonzero(target_N == rng.choice(np.unique(target_N)))
    return int(members[rng.integers(len(members))])
