"""Soft labels of latents that have none, by a guide that is calibrated.

A generator that is conditioned on a classifier's labels of everything that is unlabelled learns
more than the labelled latents show (You et al. 2023, DPT, arXiv 2302.10586). Here labels stay soft:
a class is drawn by its probability, each time a latent is shown. Legend: N latents, K classes.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from histodiff.artifacts import Reference
from histodiff.config import Config, Location
from histodiff.diffusion import Guide
from histodiff.guidance.crossfit import judgements
from histodiff.guidance.labelled import LabelledLatents


class PseudoLabelConfig(Config):
    """Latents without labels, and the guide that says what they may be."""

    latents: Annotated[Reference, Location()]
    """LatentStore whose training latents are used, whatever their labels; of the same encoder."""
    guide: Annotated[Reference, Location()]
    """Finished guide of kind `features`, of the same denoiser, labels and seed; calibrated."""
    share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the training that shows them; the rest shows labelled latents."""
    sigma: float | None = Field(default=None, gt=0)
    """Noise level at which the guide is asked; null is where its cross-fitted log loss is least."""
    views: int = Field(default=8, ge=1)
    """Noisy views that its probabilities are averaged over, each turned or flipped at random."""


@dataclass(frozen=True)
class PseudoLabelled:
    """Latents that no label was looked at of, and the probability of each class."""

    latents: LabelledLatents
    probability_NK: npt.NDArray[np.float64]
    share: float
    """Share of the training that shows them."""

    def without(self, groups: set[str]) -> "PseudoLabelled":
        """Those of other slides or patients than ``groups``."""
        kept = np.flatnonzero([group not in groups for group in self.latents.group_N])
        return PseudoLabelled(self.latents.part(kept), self.probability_NK[kept], self.share)


def soft_labels(
    guide: Guide,
    latents: LabelledLatents,
    *,
    sigma: float,
    views: int,
    batch: int,
    seed: int,
    device: str,
) -> npt.NDArray[np.float64]:
    """Mean probability (N, K) of the classes over noisy views of every latent.

    Args:
        guide: With temperatures.
        latents: What is labelled.
        sigma: Noise level of the views.
        views: How many, each under a random one of the eight symmetries.
        batch: Latents of one forward pass.
        seed: Decides noise and symmetries.
        device: Where the guide is.
    """

    def level(u_B: Tensor) -> Tensor:
        return torch.full_like(u_B, sigma).float()

    log_p_MK = judgements(
        guide, latents, level, draws=views, batch=batch, seed=seed, purpose="pseudo-label",
        device=device, symmetries=True,
    )  # fmt: skip
    probability_MK = log_p_MK.double().exp()
    mean_NK: npt.NDArray[np.float64] = (
        probability_MK.reshape(views, len(latents), -1).mean(dim=0).numpy()
    )
    return mean_NK
