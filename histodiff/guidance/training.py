"""How a guide that is a classifier of noisy latents learns: batches, and the loss of step k.

The loss of step k is a function of ``(seed, k)`` alone. Legend: B batch, K classes, N rows.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from histodiff.guidance.labelled import LabelledLatents, NoisyBatch, joined, noisy_batch
from histodiff.guidance.noise import NoiseConfig
from histodiff.guidance.pseudo_labels import PseudoLabelled, Shown, shown_latents
from histodiff.runtime import generator_for
from histodiff.training import OptimizationConfig

Logits = Callable[[Tensor, Tensor], Tensor]
"""``logits(x_BCHW, sigma_B)`` of shape (B, K)."""
SigmaOf = Callable[[Tensor], Tensor]
"""Noise levels (B) from uniform numbers (B)."""


class ClassifierTraining(OptimizationConfig):
    """How a classifier of latents is trained; an image is a latent."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes; keeps gradients calibrated."""
    class_balanced: bool = True
    """Draw the class first, then a latent of it."""
    symmetries: bool = False
    """Flip and turn latents; right only for autoencoders that nearly commute with it."""
    mixing: float = Field(default=0.0, ge=0)
    """Latents and labels are mixed in pairs, by shares from Beta(mixing, mixing) (Zhang et al.
    2018, mixup); 0 mixes none."""


class GuideTraining(ClassifierTraining):
    """How a classifier of noisy latents is trained; an image is a noisy latent."""

    noise: NoiseConfig
    """Noise levels of the training."""


def guide_loss(
    logits: Logits,
    latents: LabelledLatents,
    *,
    training: ClassifierTraining,
    sigma_of: SigmaOf,
    seed: int,
    device: str,
    pseudo: PseudoLabelled | None = None,
) -> Callable[[int], Tensor]:
    """The loss of step ``k``: cross-entropy of noisy latents.

    Args:
        logits: What is trained.
        latents: With labels.
        training: How batches are drawn, and how labels are softened.
        sigma_of: Noise levels from uniform numbers.
        seed: With the step, decides the batch.
        device: Where the batch is put.
        pseudo: Latents without labels, and their classes as a teacher tells them.
    """
    shown_at = shown_latents(latents, pseudo, balanced=training.class_balanced, seed=seed)
    every = latents if pseudo is None else joined(latents, pseudo.latents)

    def loss(step: int) -> Tensor:
        batch = training_batch(
            every, step, shown_at=shown_at, training=training, sigma_of=sigma_of, seed=seed,
            device=device,
        )  # fmt: skip
        share_B = mixing_shares(training, step, seed=seed).to(device)
        # the partner is the next of the batch, an independent draw; the noise stays whole
        partner_BCHW = batch.clean_BCHW.roll(-1, dims=0)
        change_BCHW = (partner_BCHW - batch.clean_BCHW) * share_B.reshape(-1, 1, 1, 1)
        logits_BK = logits(batch.noisy_BCHW + change_BCHW, batch.sigma_B)
        own_B, other_B = (
            functional.cross_entropy(
                logits_BK, target_B, label_smoothing=training.label_smoothing, reduction="none"
            )
            for target_B in (batch.target_B, batch.target_B.roll(-1, dims=0))
        )
        return ((1 - share_B) * own_B + share_B * other_B).mean()

    return loss


def mixing_shares(training: ClassifierTraining, step: int, *, seed: int) -> Tensor:
    """Shares (B) of the partner in the samples of step ``k``, fp32."""
    if training.mixing == 0:
        return torch.zeros(training.batch)
    indices = range(step * training.batch, (step + 1) * training.batch)
    drawn = [
        generator_for(seed, "guide-mixing", index).beta(training.mixing, training.mixing)
        for index in indices
    ]
    return torch.tensor(drawn, dtype=torch.float32)


def training_batch(
    latents: LabelledLatents,
    step: int,
    *,
    shown_at: Callable[[int], Shown],
    training: ClassifierTraining,
    sigma_of: SigmaOf,
    seed: int,
    device: str = "cpu",
) -> NoisyBatch:
    """The batch of step ``k``; sample b of it has the global index ``k * batch + b``.

    Args:
        latents: All that may be shown.
        step: Number of the step.
        shown_at: Which of them a sample shows, as which class.
        training: How they are shown.
        sigma_of: Noise levels from uniform numbers.
        seed: Decides noise, noise levels and symmetries.
        device: Where the batch is put.
    """
    indices = range(step * training.batch, (step + 1) * training.batch)
    shown = [shown_at(index) for index in indices]
    batch = noisy_batch(
        latents,
        [each.row for each in shown],
        sigma_of=sigma_of,
        seed=seed,
        purpose="guide",
        indices=indices,
        symmetries=training.symmetries,
        device=device,
    )
    return replace(batch, target_B=torch.tensor([each.label for each in shown], device=device))
