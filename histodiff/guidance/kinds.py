"""The kinds of guides: a config, a training and a loader for each, behind ``diffusion.Guide``.

A new kind is a module that has its config, tagged by ``type``, and its first network; and a case in
each of the functions here.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from histodiff.diffusion import Guide, Preconditioning
from histodiff.guidance.calibration import Temperatures, cross_fitted_temperatures
from histodiff.guidance.classifier_guide import ClassifierGuide
from histodiff.guidance.feature_head import FeatureGuideKind, initial_head
from histodiff.guidance.labelled import LabelledLatents
from histodiff.guidance.latent_classifier import LatentGuideKind, initial_classifier
from histodiff.guidance.noise import sigma_bins
from histodiff.guidance.training import Logits, guide_loss
from histodiff.models.denoiser import Denoiser
from histodiff.models.feature_head import (
    MODEL,
    DenoiserFeatures,
    FeatureHead,
    load_feature_head,
    save_feature_head,
)
from histodiff.models.latent_classifier import (
    LatentClassifier,
    load_latent_classifier,
    save_latent_classifier,
)
from histodiff.models.weights import DESCRIPTION
from histodiff.storage import StoragePath, write_bytes
from histodiff.training import CHECKPOINTS, MetricsRow, fit

GuideKind = Annotated[FeatureGuideKind | LatentGuideKind, Field(discriminator="type")]
"""Union of the configs of all kinds, told apart by ``type``."""

TEMPERATURES = "temperatures.json"
_SCRATCH = "scratch"


@dataclass(frozen=True)
class Lesson:
    """What guides are trained for and by, whatever is held out."""

    kind: GuideKind
    classes: tuple[str, ...]
    denoiser: Denoiser
    """The denoiser that is to be steered."""
    seed: int
    """Decides the first weights and every draw."""
    device: str

    @cached_property
    def features(self) -> DenoiserFeatures:
        """Features of the denoiser, for a kind that reads them."""
        assert isinstance(self.kind, FeatureGuideKind)
        return DenoiserFeatures(self.denoiser, self.kind.network.layers)

    @property
    def preconditioning(self) -> Preconditioning:
        """Of the denoiser: which noise levels there are."""
        return self.denoiser.preconditioning


@dataclass(frozen=True)
class TrainedGuide:
    """A guide, in evaluation mode, and the losses of its training."""

    guide: ClassifierGuide
    rows: list[MetricsRow]


def train_guide(
    lesson: Lesson, latents: LabelledLatents, *, num_bins: int, path: StoragePath
) -> TrainedGuide:
    """A guide of a kind, trained on labelled latents; the same call again resumes.

    Its temperatures, where the kind has any, come from guides that are trained without some slides.

    Args:
        lesson: Which guide, and how it is trained.
        latents: With labels.
        num_bins: Bins of noise levels that have a temperature each.
        path: Folder of the guide; checkpoints lie below it.

    Raises:
        ConfigError: There are too few labelled slides for temperatures, or the denoiser lacks a
            layer.
    """
    network, logits = _untrained(lesson, latents)
    rows = _fit(lesson, network, logits, latents, path / CHECKPOINTS, run="guide")
    temperatures = _temperatures(lesson, latents, num_bins, path)
    return TrainedGuide(ClassifierGuide(network, logits, lesson.classes, temperatures), rows)


def evaluation_bins(
    kind: GuideKind, preconditioning: Preconditioning, *, num_bins: int
) -> list[tuple[float, float]]:
    """Bins of the noise levels at which a guide of ``kind`` is at work."""
    return sigma_bins(kind.training.noise, preconditioning, num_bins=num_bins)


def save_guide(path: StoragePath, guide: ClassifierGuide, *, snapshot: str) -> None:
    """Writes the guide into the folder ``path``.

    Args:
        path: The folder.
        guide: What is written.
        snapshot: EMA snapshot of the denoiser that it was trained with.
    """
    match guide.network:
        case LatentClassifier() as classifier:
            save_latent_classifier(path, classifier, classes=guide.classes)
        case FeatureHead() as head:
            save_feature_head(path, head, classes=guide.classes, snapshot=snapshot)
    if guide.temperatures is not None:
        text = json.dumps(asdict(guide.temperatures), indent=2) + "\n"
        write_bytes(path / TEMPERATURES, text.encode())


def load_guide(
    path: StoragePath, denoiser: Callable[[str], Denoiser], device: str
) -> ClassifierGuide:
    """The guide saved in ``path``, in evaluation mode, frozen.

    Args:
        path: Folder of the guide.
        denoiser: Opens a snapshot of the denoiser it was trained with, for guides that read its
            features; not to be used for anything else.
        device: Where it runs.

    Raises:
        ArtifactNotFound: There is none.
        ArtifactCorrupt: It is damaged.
    """
    temperatures = _stored_temperatures(path)
    if _model_in(path) == MODEL:
        read = load_feature_head(path, device)
        features = DenoiserFeatures(denoiser(read.snapshot), read.head.config.layers)
        logits = _head_logits(read.head, features)
        return ClassifierGuide(read.head, logits, read.classes, temperatures)
    loaded = load_latent_classifier(path, device)
    return ClassifierGuide(loaded.classifier, loaded.classifier, loaded.classes, temperatures)


def _untrained(lesson: Lesson, latents: LabelledLatents) -> tuple[nn.Module, Logits]:
    match lesson.kind:
        case LatentGuideKind() as kind:
            classifier = initial_classifier(
                kind.network, latent_channels=latents.mean_NCHW.shape[1],
                num_classes=len(lesson.classes), seed=lesson.seed, device=lesson.device,
            )  # fmt: skip
            return classifier, classifier
        case FeatureGuideKind() as kind:
            head = initial_head(
                kind, lesson.features, latents, num_classes=len(lesson.classes),
                preconditioning=lesson.preconditioning, seed=lesson.seed, device=lesson.device,
            )  # fmt: skip
            return head, _head_logits(head, lesson.features)


def _head_logits(head: FeatureHead, features: DenoiserFeatures) -> Logits:
    def logits(x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        found_BK: Tensor = head(features(x_BCHW, sigma_B), sigma_B)
        return found_BK

    return logits


def _fit(
    lesson: Lesson,
    network: nn.Module,
    logits: Logits,
    latents: LabelledLatents,
    checkpoints: StoragePath,
    *,
    run: str,
) -> list[MetricsRow]:
    loss = guide_loss(
        logits, latents, training=lesson.kind.training, preconditioning=lesson.preconditioning,
        seed=lesson.seed, device=lesson.device,
    )  # fmt: skip
    network.train()
    rows = fit(
        network, loss=loss, config=lesson.kind.training, seed=lesson.seed, checkpoints=checkpoints,
        run=run,
    )  # fmt: skip
    network.eval()
    return rows


def _temperatures(
    lesson: Lesson, latents: LabelledLatents, num_bins: int, path: StoragePath
) -> Temperatures | None:
    config = lesson.kind.calibration
    if config is None:
        return None

    def train(part: LabelledLatents, number: int) -> Guide:
        network, logits = _untrained(lesson, part)
        own = path / _SCRATCH / f"fold-{number}"
        _fit(lesson, network, logits, part, own, run=f"guide without part {number + 1}")
        return ClassifierGuide(network, logits, lesson.classes)

    return cross_fitted_temperatures(
        train, latents, config=config,
        bins=evaluation_bins(lesson.kind, lesson.preconditioning, num_bins=num_bins),
        batch=lesson.kind.training.batch, seed=lesson.seed, device=lesson.device,
    )  # fmt: skip


def _model_in(path: StoragePath) -> str | None:
    """Which model the description in a folder names; None where there is none to read."""
    try:
        found = json.loads((path / DESCRIPTION).read_bytes()).get("model")
    except (OSError, ValueError):
        return None  # the loader says what is wrong
    return None if found is None else str(found)


def _stored_temperatures(path: StoragePath) -> Temperatures | None:
    try:
        record = json.loads((path / TEMPERATURES).read_bytes())
    except FileNotFoundError:
        return None
    return Temperatures(tuple(record["sigmas"]), tuple(record["values"]))
