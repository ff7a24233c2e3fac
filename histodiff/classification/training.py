"""Training of the classifier for a fixed number of steps, and its predictions.

All arms of a comparison take the same number of steps of the same batch, so that a gain is not more
optimisation. The loss of step k is a function of ``(seed, k)`` alone. The last step's model is the
result: no model is picked by looking at validation or test images. Legend: B batch, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from histodiff.classification.augment import AugmentConfig, augmented
from histodiff.classification.blending import blended, drawn_blends
from histodiff.classification.learning_set import LearningSet, drawn_images
from histodiff.errors import ConfigError
from histodiff.models.classifier import Classifier, ClassifierConfig, create_classifier
from histodiff.runtime import derived_seed
from histodiff.runtime.interim import offer_interim
from histodiff.storage import StoragePath
from histodiff.telemetry import progress
from histodiff.training import MetricsRow, OptimizationConfig, fit


class ClassifierTraining(OptimizationConfig):
    """How the classifier is trained, on whatever images it is given."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    class_balanced: bool = True
    """Draw the class first, then an image of it."""
    augment: AugmentConfig = AugmentConfig()
    """What may happen to a training image."""
    mixup: float = Field(default=0.0, ge=0)
    """Images are added in pairs, in shares from a Beta distribution of this parameter; 0 is off."""
    cutmix: float = Field(default=0.0, ge=0)
    """Boxes of one image are pasted into another; takes turns with ``mixup``. 0 is off."""


class Tuned(StrEnum):
    """Which weights of a classifier are trained."""

    ALL = "all"
    """All of them."""
    HEAD = "head"
    """The linear head; the backbone stays frozen, and in evaluation mode."""


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier after its last step, and the rows of metrics of its training."""

    classifier: Classifier
    records: list[MetricsRow]


def trained_classifier(
    images: LearningSet,
    *,
    backbone: ClassifierConfig,
    training: ClassifierTraining,
    num_classes: int,
    seed: int,
    device: str,
    checkpoints: StoragePath,
    run: str,
    tuned: Tuned = Tuned.ALL,
    interim: Callable[[Classifier], Mapping[str, float]] | None = None,
) -> TrainedClassifier:
    """Trains a classifier from its first weights; goes on from ``checkpoints``, if there are any.

    Args:
        images: What is learned from.
        backbone: The network.
        training: How it is trained.
        num_classes: Classes that are told apart.
        seed: Decides the first weights and every draw.
        device: Where it runs.
        checkpoints: Folder of the checkpoints.
        run: Name on the progress bar and in metrics.
        tuned: Which weights are trained.
        interim: Metrics of the classifier midway, for whoever listens (``runtime/interim.py``).

    Raises:
        ConfigError: Only the head is to be trained, and the backbone has none that is linear.
        TrainingDiverged: The loss or the gradient of a step is not finite.
    """
    classifier = initial_classifier(backbone, num_classes=num_classes, seed=seed, device=device)
    classifier.train()
    if tuned is Tuned.HEAD:
        freeze_backbone(classifier)
    loss = classifier_loss(classifier, images, training=training, seed=seed, device=device)
    if interim is not None:
        loss = _offering(loss, classifier, interim, training.num_steps)
    records = fit(
        classifier, loss=loss, config=training, seed=seed, checkpoints=checkpoints, run=run
    )
    return TrainedClassifier(classifier, records)


def _offering(
    loss: Callable[[int], Tensor],
    classifier: Classifier,
    interim: Callable[[Classifier], Mapping[str, float]],
    num_steps: int,
) -> Callable[[int], Tensor]:
    """The same loss; interim metrics are offered before each step but the first.

    Measuring changes nothing: every module is put back into the mode it was in.
    """

    def measured() -> Mapping[str, float]:
        modes = [(module, module.training) for module in classifier.modules()]
        try:
            return interim(classifier)
        finally:
            for module, mode in modes:
                module.training = mode

    def offered(step: int) -> Tensor:
        if step:
            offer_interim(step / num_steps, measured)
        return loss(step)

    return offered


def freeze_backbone(classifier: Classifier) -> None:
    """Leaves the linear head alone to be trained; norms keep their statistics.

    Raises:
        ConfigError: The backbone has no linear head.
    """
    head: nn.Module = classifier.backbone.get_classifier()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        raise ConfigError(
            f"backbone.model '{classifier.config.model}' has no linear head to be trained alone;"
            " choose another, or method.tuning: {type: full}"
        )
    classifier.eval().requires_grad_(requires_grad=False)
    head.requires_grad_(requires_grad=True)


def initial_classifier(
    config: ClassifierConfig, *, num_classes: int, seed: int, device: str
) -> Classifier:
    """A classifier whose random weights are decided by ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "classifier-weights"))
        return create_classifier(config, num_classes).to(device)


def classifier_loss(
    classifier: Classifier,
    images: LearningSet,
    *,
    training: ClassifierTraining,
    seed: int,
    device: str,
) -> Callable[[int], Tensor]:
    """The loss of step ``k``: cross-entropy of augmented images with their targets."""

    def loss(step: int) -> Tensor:
        indices = range(step * training.batch, (step + 1) * training.batch)
        rows = drawn_images(images, seed=seed, indices=indices, balanced=training.class_balanced)
        pixels_BCHW = augmented(
            images.pixels_NHWC[rows], config=training.augment, seed=seed, indices=indices,
            device=device,
        )  # fmt: skip
        target_BK = torch.from_numpy(images.target_NK[rows]).to(device)
        if training.mixup or training.cutmix:
            blends = drawn_blends(
                mixup=training.mixup, cutmix=training.cutmix, side_px=pixels_BCHW.shape[-1],
                seed=seed, indices=indices,
            )  # fmt: skip
            pixels_BCHW, target_BK = blended(pixels_BCHW, target_BK, blends)
        return soft_cross_entropy(
            classifier(pixels_BCHW), target_BK, label_smoothing=training.label_smoothing
        )

    return loss


def soft_cross_entropy(logits_BK: Tensor, target_BK: Tensor, *, label_smoothing: float) -> Tensor:
    """Mean over images of ``-sum_k t_k ln p_k``, where ``t`` sums to the weight of an image."""
    weight_B1 = target_BK.sum(dim=1, keepdim=True)
    spread = label_smoothing * weight_B1 / target_BK.shape[1]
    smoothed_BK = (1 - label_smoothing) * target_BK + spread
    return -(smoothed_BK * functional.log_softmax(logits_BK, dim=1)).sum(dim=1).mean()


@torch.no_grad()
def predicted_probability(
    classifier: Classifier, pixels_NHWC: npt.NDArray[np.uint8], *, batch: int, device: str
) -> npt.NDArray[np.float64]:
    """Probability of every class for every image, ``(N, K)``; sets evaluation mode."""
    classifier.eval()
    parts = [np.empty((0, classifier.num_classes))]
    with progress("predict", total=len(pixels_NHWC), unit="images") as bar:
        for start in range(0, len(pixels_NHWC), batch):
            pixels_BHWC = torch.from_numpy(pixels_NHWC[start : start + batch]).to(device)
            logits_BK = classifier(pixels_BHWC.permute(0, 3, 1, 2))
            parts.append(logits_BK.double().softmax(dim=1).cpu().numpy())
            bar.advance(len(pixels_BHWC))
    return np.concatenate(parts)
