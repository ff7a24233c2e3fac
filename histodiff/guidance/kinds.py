"""The kinds of guides: a config, a training and a loader for each, behind ``diffusion.Guide``.

A new kind is a module that has its config, tagged by ``type``, and its ``Guide``; and a case in
each of the functions here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from histodiff.diffusion import Guide, Preconditioning
from histodiff.guidance.labelled import LabelledLatents
from histodiff.guidance.latent_classifier import (
    LatentGuide,
    LatentGuideKind,
    guide_loss,
    initial_classifier,
)
from histodiff.guidance.noise import sigma_bins
from histodiff.models.latent_classifier import load_latent_classifier, save_latent_classifier
from histodiff.storage import StoragePath
from histodiff.training import MetricsRow, fit

GuideKind = LatentGuideKind
"""Union of the configs of all kinds, told apart by ``type``; so far there is one."""


@dataclass(frozen=True)
class TrainedGuide:
    """A guide, in evaluation mode, and the losses of its training."""

    guide: LatentGuide
    rows: list[MetricsRow]


def train_guide(
    kind: GuideKind,
    latents: LabelledLatents,
    *,
    classes: Sequence[str],
    preconditioning: Preconditioning,
    seed: int,
    device: str,
    checkpoints: StoragePath,
) -> TrainedGuide:
    """A guide of ``kind``, trained on labelled latents; the same call again resumes.

    Args:
        kind: Which guide, and how it is trained.
        latents: With labels.
        classes: Their names, by number.
        preconditioning: Of the denoiser that is to be steered: which noise levels there are.
        seed: Decides the first weights and every draw.
        device: Where it is trained.
        checkpoints: Folder of its checkpoints.
    """
    classifier = initial_classifier(
        kind.network,
        latent_channels=latents.mean_NCHW.shape[1],
        num_classes=len(classes),
        seed=seed,
        device=device,
    )
    loss = guide_loss(
        classifier.train(),
        latents,
        training=kind.training,
        preconditioning=preconditioning,
        seed=seed,
        device=device,
    )
    rows = fit(
        classifier, loss=loss, config=kind.training, seed=seed, checkpoints=checkpoints, run="guide"
    )
    return TrainedGuide(LatentGuide(classifier.eval(), tuple(classes)), rows)


def evaluation_bins(
    kind: GuideKind, preconditioning: Preconditioning, *, num_bins: int
) -> list[tuple[float, float]]:
    """Bins of the noise levels at which a guide of ``kind`` is at work."""
    return sigma_bins(kind.training.noise, preconditioning, num_bins=num_bins)


def save_guide(path: StoragePath, guide: LatentGuide) -> None:
    """Writes the guide into the folder ``path``."""
    save_latent_classifier(path, guide.classifier, classes=guide.classes)


def load_guide(path: StoragePath, device: str) -> Guide:
    """The guide saved in ``path``, in evaluation mode, frozen.

    Raises:
        ArtifactNotFound: There is none.
        ArtifactCorrupt: It is damaged.
    """
    loaded = load_latent_classifier(path, device)
    return LatentGuide(loaded.classifier, loaded.classes)
