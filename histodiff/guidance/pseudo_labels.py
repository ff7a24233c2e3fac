"""Soft labels of latents that have none, by a guide or a classifier that is calibrated.

A generator that is conditioned on a classifier's labels of everything that is unlabelled learns
more than the labelled latents show (You et al. 2023, DPT, arXiv 2302.10586). Here labels stay soft:
a class is drawn by its probability, each time a latent is shown. A guide that is trained so is a
classifier's knowledge, told at every noise level. Legend: N latents, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from histodiff.artifacts import Reference
from histodiff.config import Config, Location
from histodiff.diffusion import Guide
from histodiff.guidance.crossfit import judgements
from histodiff.guidance.labelled import LabelledLatents, drawn_row
from histodiff.runtime import generator_for


class GuideAsTeacher(Config):
    """A guide says what noisy views of the latents show."""

    type: Literal["guide"]
    guide: Annotated[Reference, Location()]
    """Finished guide of kind `features`, of the same denoiser, labels and seed; calibrated."""
    sigma: float | None = Field(default=None, gt=0)
    """Noise level at which it is asked; null is where its log loss on slides held out is least."""
    views: int = Field(default=8, ge=1)
    """Noisy views that its probabilities are averaged over, each turned or flipped at random."""


class ClassifierAsTeacher(Config):
    """A classifier says what the patches show that the latents were encoded from."""

    type: Literal["classifier"]
    classifier: Annotated[Reference, Location()]
    """Finished classifier of the same labels, of whatever method; calibrated."""
    patches: Annotated[Reference, Location()]
    """PatchIndex that ``latents`` were encoded from."""


class PseudoLabelConfig(Config):
    """Latents without labels, and who says what they may be."""

    latents: Annotated[Reference, Location()]
    """LatentStore whose training latents are used, whatever their labels; of the same encoder."""
    teacher: Annotated[GuideAsTeacher | ClassifierAsTeacher, Field(discriminator="type")]
    """Who labels: `guide` or `classifier`."""
    share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the training that shows them; the rest shows labelled latents."""


@dataclass(frozen=True)
class PseudoLabelled:
    """Latents that no label was looked at of, and the probability of each class."""

    latents: LabelledLatents
    probability_NK: npt.NDArray[np.float64]
    share: float
    """Share of the training that shows them."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.probability_NK.shape[1])

    def without(self, groups: set[str]) -> "PseudoLabelled":
        """Those of other slides or patients than ``groups``."""
        kept = np.flatnonzero([group not in groups for group in self.latents.group_N])
        return PseudoLabelled(self.latents.part(kept), self.probability_NK[kept], self.share)


@dataclass(frozen=True)
class Shown:
    """What a training sample shows."""

    row: int
    """Among the labelled latents and then those without labels."""
    label: int
    """Class that it is shown as."""
    uniform: float
    """A uniform number more, for whoever shows some samples otherwise."""


def shown_latents(
    labelled: LabelledLatents,
    pseudo: PseudoLabelled | None,
    *,
    balanced: bool,
    seed: int,
) -> Callable[[int], Shown]:
    """Which latent sample ``i`` of a training shows, and as which class: a function of the index.

    A latent without a label is drawn in proportion to its probability of the class, so that the
    samples of a class are drawn from that class's distribution as the teacher tells it.

    Args:
        labelled: Latents with labels.
        pseudo: Latents without; None shows labelled ones alone.
        balanced: Whether every class is drawn alike, of both.
        seed: With the index, decides every draw.
    """
    below_NK = None if pseudo is None else _running_sums(pseudo, balanced=balanced)

    def shown(index: int) -> Shown:
        rng = generator_for(seed, "guide-shown", index)
        chosen, uniform = rng.random(2)
        if pseudo is not None and below_NK is not None and chosen < pseudo.share:
            total_K = below_NK[-1]
            label = int(rng.choice(pseudo.num_classes, p=total_K / total_K.sum()))
            place = np.searchsorted(below_NK[:, label], rng.random() * total_K[label], "right")
            return Shown(len(labelled) + min(int(place), len(below_NK) - 1), label, uniform)
        row = drawn_row(labelled.target_N, seed=seed, index=index, balanced=balanced)
        return Shown(row, int(labelled.target_N[row]), uniform)

    return shown


def _running_sums(pseudo: PseudoLabelled, *, balanced: bool) -> npt.NDArray[np.float64]:
    """Of the probabilities (N, K); each class sums to one where classes balance."""
    probability_NK = pseudo.probability_NK
    if balanced:
        probability_NK = probability_NK / probability_NK.sum(axis=0)
    below_NK: npt.NDArray[np.float64] = probability_NK.cumsum(axis=0)
    return below_NK


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
