"""The guide ``features``: a small head on the frozen denoiser's features of a noisy latent.

What pre-training has learned of the tissue is used, and only the head learns from the labels: by
logistic regressions whose layers and penalties are chosen on slides that are held out, or by a
perceptron that is trained step by step. Legend: B batch, C channels, H height, W width.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Discriminator, Tag, model_validator
from torch import Tensor

from histodiff.config import Config
from histodiff.guidance.calibration import CalibrationConfig
from histodiff.guidance.classifier_guide import ClassifierGuide
from histodiff.guidance.labelled import LabelledLatents, noisy_batch
from histodiff.guidance.lesson import Lesson, Taught
from histodiff.guidance.logistic_head import LogisticHeadConfig
from histodiff.guidance.noise import NoiseConfig, sigma_drawer
from histodiff.guidance.pseudo_labels import PseudoLabelConfig
from histodiff.guidance.training import GuideTraining, Logits, guide_loss
from histodiff.models.feature_head import DenoiserFeatures, FeatureHead, FeatureHeadConfig
from histodiff.models.logistic_head import LogisticHead
from histodiff.runtime import derived_seed
from histodiff.storage import StoragePath
from histodiff.training import fit

_LOOKED_AT = 512
"""Noisy latents that mean and scale of the features are taken from."""


def _head_type(value: Any) -> str:
    """The tag of a head; heads of before there was a choice have none."""
    found = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return str(found or "perceptron")


Head = Annotated[
    Annotated[FeatureHeadConfig, Tag("perceptron")]
    | Annotated[LogisticHeadConfig, Tag("logistic")],
    Discriminator(_head_type),
]


class FeatureGuideKind(Config):
    """A head on the features of the frozen denoiser."""

    type: Literal["features"]
    network: Head
    """The head, by its `type`: `logistic`, or `perceptron` (which it is without one)."""
    training: GuideTraining | None = None
    """How a perceptron is trained; null for `logistic`."""
    pseudo_labels: PseudoLabelConfig | None = None
    """Latents without labels that a perceptron learns from as well; null learns from labels
    alone."""
    calibration: CalibrationConfig | None = CalibrationConfig()
    """How its temperatures are found; null has none."""

    @model_validator(mode="after")
    def _trained_or_fitted(self) -> "FeatureGuideKind":
        logistic = isinstance(self.network, LogisticHeadConfig)
        if logistic != (self.training is None):
            raise ValueError(
                "network.type=logistic is fitted at once: remove training"
                if logistic
                else "network.type=perceptron needs training"
            )
        if logistic and self.pseudo_labels is not None:
            raise ValueError(
                "network.type=logistic learns from labels alone: remove pseudo_labels, or take a"
                " perceptron"
            )
        return self

    @property
    def noise(self) -> NoiseConfig:
        """Noise levels that it knows."""
        if isinstance(self.network, LogisticHeadConfig):
            return self.network.noise
        return self._training.noise

    @property
    def judged_batch(self) -> int:
        """Latents that are judged at a time."""
        if isinstance(self.network, LogisticHeadConfig):
            return self.network.batch
        return self._training.batch

    @property
    def num_steps(self) -> int:
        """Optimizer steps; none of regressions."""
        return 0 if self.training is None else self.training.num_steps

    @property
    def _training(self) -> GuideTraining:
        assert self.training is not None
        return self.training


def learn_perceptron(
    kind: FeatureGuideKind, lesson: Lesson, latents: LabelledLatents, folder: StoragePath, run: str
) -> Taught:
    """A guide whose head is a perceptron; the same call again resumes."""
    assert isinstance(kind.network, FeatureHeadConfig)
    assert kind.training is not None
    features = lesson.features(kind.network.layers)
    head = _initial_head(kind.network, kind.training, features, latents, lesson)
    logits = head_logits(head, features)
    loss = guide_loss(
        logits, latents, training=kind.training,
        sigma_of=sigma_drawer(kind.training.noise, lesson.preconditioning), seed=lesson.seed,
        device=lesson.device, pseudo=lesson.pseudo_labelled,
    )  # fmt: skip
    head.train()
    rows = fit(head, loss=loss, config=kind.training, seed=lesson.seed, checkpoints=folder, run=run)
    return Taught(ClassifierGuide(head.eval(), logits, lesson.classes), rows)


def head_logits(head: FeatureHead | LogisticHead, features: DenoiserFeatures) -> Logits:
    """Logits of noisy latents, by a head on features."""

    def logits(x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        found_BK: Tensor = head(features(x_BCHW, sigma_B), sigma_B)
        return found_BK

    return logits


@torch.no_grad()
def _initial_head(
    network: FeatureHeadConfig,
    training: GuideTraining,
    features: DenoiserFeatures,
    latents: LabelledLatents,
    lesson: Lesson,
) -> FeatureHead:
    """A head with random weights that are decided by the seed; features are standardised."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(lesson.seed, "guide-weights"))
        head = FeatureHead(
            network, num_features=features.num_features, num_classes=len(lesson.classes)
        )
    head = head.to(lesson.device)
    seen = []
    for start in range(0, _LOOKED_AT, training.batch):
        indices = range(start, min(start + training.batch, _LOOKED_AT))
        batch = noisy_batch(
            latents, [index % len(latents) for index in indices],
            sigma_of=sigma_drawer(training.noise, lesson.preconditioning), seed=lesson.seed,
            purpose="guide-scale", indices=indices, device=lesson.device,
        )  # fmt: skip
        seen.append(features(batch.noisy_BCHW, batch.sigma_B))
    head.standardise(torch.cat(seen))
    return head
