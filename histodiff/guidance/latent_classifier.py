"""The guides ``latent`` and ``clean``: a classifier of latents whose gradient steers.

``latent`` sees in training the noise it will meet while sampling. ``clean`` is the control: the
released code of HistoDiffusion trains on clean latents, and steers with the gradient of what the
network then says of noisy ones. Legend: B batch, C channels, H height, W width.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from histodiff.config import Config
from histodiff.guidance.calibration import CalibrationConfig
from histodiff.guidance.classifier_guide import ClassifierGuide
from histodiff.guidance.labelled import LabelledLatents
from histodiff.guidance.lesson import Lesson, Taught
from histodiff.guidance.noise import NoiseConfig, sigma_drawer
from histodiff.guidance.pseudo_labels import PseudoLabelConfig
from histodiff.guidance.training import (
    ClassifierTraining,
    GuideTraining,
    Logits,
    SigmaOf,
    guide_loss,
)
from histodiff.models.denoiser import Denoiser
from histodiff.models.latent_classifier import LatentClassifier, LatentClassifierConfig
from histodiff.runtime import derived_seed
from histodiff.storage import StoragePath
from histodiff.training import MetricsRow, fit

UsedOn = Literal["noisy", "denoised"]
USED_ON = "used_on"
"""Key, in the description of a guide ``clean``, of what it is shown."""


class LatentGuideKind(Config):
    """A noise-aware classifier of latents, trained from scratch on the labels."""

    type: Literal["latent"]
    network: LatentClassifierConfig
    """The network."""
    training: GuideTraining
    """How it is trained."""
    lengths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(1.0,), min_length=1)
    """Candidates: shares of `training.images` after which training ends, learning rate and all.
    The one with the least log loss on slides held out is used."""
    pseudo_labels: PseudoLabelConfig | None = None
    """Latents without labels that are learned from as well; null learns from labels alone."""
    calibration: CalibrationConfig | None = None
    """How its temperatures are found; null has none."""

    @property
    def noise(self) -> NoiseConfig:
        """Noise levels that it knows."""
        return self.training.noise

    @property
    def judged_batch(self) -> int:
        """Latents that are judged at a time."""
        return self.training.batch

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the longest training."""
        return self.training.num_steps

    def of_length(self, share: float) -> "LatentGuideKind":
        """The same, trained on a share of the images."""
        images = max(round(share * self.training.images), self.training.batch)
        warmup = min(self.training.rate.warmup_images, images)
        rate = self.training.rate.model_copy(update={"warmup_images": warmup})
        training = self.training.model_copy(update={"images": images, "rate": rate})
        return self.model_copy(update={"training": training, "lengths": (1.0,)})


class CleanGuideKind(Config):
    """The control: a classifier of clean latents, which sees noisy ones while sampling."""

    type: Literal["clean"]
    network: LatentClassifierConfig
    """The network."""
    training: ClassifierTraining
    """How it is trained, on latents without noise."""
    noise: NoiseConfig
    """Noise levels at which it is judged and may steer, although it was trained on none."""
    used_on: UsedOn = "noisy"
    """What it is shown while sampling: `noisy` latents and their noise level, as in the paper's
    code, or the `denoised` estimate, as a clean one, with the gradient through the denoiser."""
    calibration: CalibrationConfig | None = CalibrationConfig()
    """How its temperatures are found; null has none."""

    @property
    def judged_batch(self) -> int:
        """Latents that are judged at a time."""
        return self.training.batch

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""
        return self.training.num_steps


def learn_latent(
    kind: LatentGuideKind, lesson: Lesson, latents: LabelledLatents, folder: StoragePath, run: str
) -> Taught:
    """A guide of the kind ``latent``; the same call again resumes."""
    noise = sigma_drawer(kind.training.noise, lesson.preconditioning)
    classifier, taught = _learned(
        kind.network, kind.training, lesson, latents, noise, folder, run=run
    )
    return Taught(ClassifierGuide(classifier, classifier, lesson.classes), taught)


def learn_clean(
    kind: CleanGuideKind, lesson: Lesson, latents: LabelledLatents, folder: StoragePath, run: str
) -> Taught:
    """A guide of the kind ``clean``; the same call again resumes."""
    classifier, taught = _learned(
        kind.network, kind.training, lesson, latents, _no_noise, folder, run=run
    )
    logits = clean_logits(classifier, lesson.denoiser, kind.used_on)
    saved = {USED_ON: kind.used_on}
    return Taught(ClassifierGuide(classifier, logits, lesson.classes, saved=saved), taught)


def clean_logits(classifier: LatentClassifier, denoiser: Denoiser, used_on: UsedOn) -> Logits:
    """Logits of noisy latents, by a classifier that knows clean ones."""
    if used_on == "noisy":
        return classifier

    def logits(x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        found_BK: Tensor = classifier(denoiser(x_BCHW, sigma_B), torch.zeros_like(sigma_B))
        return found_BK

    return logits


def _learned(
    network: LatentClassifierConfig,
    training: ClassifierTraining,
    lesson: Lesson,
    latents: LabelledLatents,
    sigma_of: SigmaOf,
    folder: StoragePath,
    *,
    run: str,
) -> tuple[LatentClassifier, list[MetricsRow]]:
    classifier = _initial_classifier(network, lesson, channels=latents.mean_NCHW.shape[1])
    loss = guide_loss(
        classifier, latents, training=training, sigma_of=sigma_of, seed=lesson.seed,
        device=lesson.device, pseudo=lesson.pseudo_labelled,
    )  # fmt: skip
    classifier.train()
    rows = fit(
        classifier, loss=loss, config=training, seed=lesson.seed, checkpoints=folder, run=run
    )
    return classifier.eval(), rows


def _initial_classifier(
    network: LatentClassifierConfig, lesson: Lesson, *, channels: int
) -> LatentClassifier:
    """A classifier whose random weights are decided by the seed, the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(lesson.seed, "guide-weights"))
        classifier = LatentClassifier(
            network, latent_channels=channels, num_classes=len(lesson.classes)
        )
    return classifier.to(lesson.device)


def _no_noise(u_B: Tensor) -> Tensor:
    return torch.zeros_like(u_B).float()
