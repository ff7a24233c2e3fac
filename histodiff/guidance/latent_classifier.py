"""The guide ``latent``: a noise-aware latent classifier phi(x; sigma), whose gradient steers.

Unlike the released code of HistoDiffusion, phi sees the noise it will meet while sampling: with a
few labels, a classifier of clean latents gives useless gradients on noisy ones.
"""

from typing import Literal

import torch

from histodiff.config import Config
from histodiff.guidance.calibration import CalibrationConfig
from histodiff.guidance.training import GuideTraining
from histodiff.models.latent_classifier import LatentClassifier, LatentClassifierConfig
from histodiff.runtime import derived_seed


class LatentGuideKind(Config):
    """A noise-aware classifier of latents, trained from scratch on the labels."""

    type: Literal["latent"]
    network: LatentClassifierConfig
    """The network."""
    training: GuideTraining
    """How it is trained."""
    calibration: CalibrationConfig | None = None
    """How its temperatures are found; null has none."""


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
