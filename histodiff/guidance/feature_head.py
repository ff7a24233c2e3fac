"""The guide ``features``: a small head on the frozen denoiser's features of a noisy latent.

What pre-training has learned of the tissue is used, and only the head learns from the labels.
Legend: B batch, C channels, H height, W width.
"""

from typing import Literal

import torch

from histodiff.config import Config
from histodiff.diffusion import Preconditioning
from histodiff.guidance.calibration import CalibrationConfig
from histodiff.guidance.labelled import LabelledLatents, noisy_batch
from histodiff.guidance.noise import noise_sigma
from histodiff.guidance.training import GuideTraining
from histodiff.models.feature_head import DenoiserFeatures, FeatureHead, FeatureHeadConfig
from histodiff.runtime import derived_seed

_LOOKED_AT = 512
"""Noisy latents that mean and scale of the features are taken from."""


class FeatureGuideKind(Config):
    """A head on the features of the frozen denoiser."""

    type: Literal["features"]
    network: FeatureHeadConfig
    """Layers, and the head."""
    training: GuideTraining
    """How the head is trained."""
    calibration: CalibrationConfig | None = CalibrationConfig()
    """How its temperatures are found; null has none."""


@torch.no_grad()
def initial_head(
    kind: FeatureGuideKind,
    features: DenoiserFeatures,
    latents: LabelledLatents,
    *,
    num_classes: int,
    preconditioning: Preconditioning,
    seed: int,
    device: str,
) -> FeatureHead:
    """A head with random weights that are decided by ``seed``; features are standardised."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "guide-weights"))
        head = FeatureHead(
            kind.network, num_features=features.num_features, num_classes=num_classes
        )
    head = head.to(device)
    seen = []
    for start in range(0, _LOOKED_AT, kind.training.batch):
        indices = range(start, min(start + kind.training.batch, _LOOKED_AT))
        batch = noisy_batch(
            latents, [index % len(latents) for index in indices],
            sigma_of=lambda u_B: noise_sigma(kind.training.noise, preconditioning, u_B),
            seed=seed, purpose="guide-scale", indices=indices, device=device,
        )  # fmt: skip
        seen.append(features(batch.noisy_BCHW, batch.sigma_B))
    head.standardise(torch.cat(seen))
    return head
