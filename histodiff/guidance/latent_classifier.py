"""The guide ``latent``: a noise-aware latent classifier phi(x; sigma), whose gradient steers.

Unlike the released code of HistoDiffusion, phi sees the noise it will meet while sampling: with a
few labels, a classifier of clean latents gives useless gradients on noisy ones. The loss of step k
is a function of ``(seed, k)`` alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from histodiff.config import Config
from histodiff.diffusion import Denoise, GuidanceConfig, Preconditioning, guided_denoiser
from histodiff.guidance.labelled import LabelledLatents, NoisyBatch, noisy_batch
from histodiff.guidance.noise import NoiseConfig, noise_sigma
from histodiff.models.latent_classifier import LatentClassifier, LatentClassifierConfig
from histodiff.runtime import derived_seed, generator_for
from histodiff.training import OptimizationConfig


class LatentTraining(OptimizationConfig):
    """How the latent classifier is trained; an image is a noisy latent."""

    noise: NoiseConfig
    """Noise levels of the training."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes; keeps gradients calibrated."""
    class_balanced: bool = True
    """Draw the class first, then a latent of it."""
    symmetries: bool = False
    """Flip and turn latents; right only for autoencoders that nearly commute with it."""


class LatentGuideKind(Config):
    """A noise-aware classifier of latents, trained from scratch on the labels."""

    type: Literal["latent"]
    network: LatentClassifierConfig
    """The network."""
    training: LatentTraining
    """How it is trained."""


@dataclass(frozen=True)
class LatentGuide:
    """Classifier guidance (Dhariwal & Nichol 2021, section 4.2): a ``diffusion.Guide``."""

    classifier: LatentClassifier
    """In evaluation mode."""
    classes: tuple[str, ...]

    def steered(self, denoise: Denoise, labels_B: Tensor, *, guidance: GuidanceConfig) -> Denoise:
        """``D + sigma^2 w grad log p(label | x; sigma)`` inside the interval of noise levels."""

        def log_probability(x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
            every_BK = self.log_probabilities(x_BCHW, sigma_B)
            return every_BK.gather(1, labels_B[:, None]).squeeze(1)

        return guided_denoiser(
            denoise, log_probability, scale=guidance.scale, sigma_interval=guidance.sigma_interval
        )

    def log_probabilities(self, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """``log p(k | x; sigma)`` of shape (B, K)."""
        logits_BK: Tensor = self.classifier(x_BCHW, sigma_B)
        return logits_BK.log_softmax(dim=1)


def initial_classifier(
    network: LatentClassifierConfig,
    *,
    latent_channels: int,
    num_classes: int,
    seed: int,
    device: str,
) -> LatentClassifier:
    """A classifier whose random weights are decided by ``seed``, the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "guide-weights"))
        classifier = LatentClassifier(
            network, latent_channels=latent_channels, num_classes=num_classes
        )
    return classifier.to(device)


def guide_loss(
    classifier: LatentClassifier,
    latents: LabelledLatents,
    *,
    training: LatentTraining,
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
    training: LatentTraining,
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
