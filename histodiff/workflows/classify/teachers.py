"""Who guesses the labels of patches: a finished guide or classifier of the same labels."""

import math
from collections.abc import Mapping

import numpy as np
import torch

from histodiff.artifacts import Artifact
from histodiff.classification.images import Pixels
from histodiff.errors import ConfigError
from histodiff.guidance.kinds import load_guide
from histodiff.latents import Whitening
from histodiff.models.denoiser import Denoiser
from histodiff.runtime import generator_for
from histodiff.storage import StoragePath
from histodiff.telemetry import progress
from histodiff.workflows.classify.additions import TEACHER, ClassifierTeacher, GuideTeacher
from histodiff.workflows.classify.opened import TEMPERATURE, Predictor, open_classifier
from histodiff.workflows.guide import SIGMAS
from histodiff.workflows.labels import require_same_labels
from histodiff.workflows.networks import open_autoencoder, open_denoiser, require_same_encoder


def check_teacher(
    teacher: GuideTeacher | ClassifierTeacher, inputs: Mapping[str, Artifact], labels_sha256: str
) -> None:
    """Whether the teacher may judge, by the manifests alone.

    Raises:
        ConfigError: It saw other labels, is not calibrated, or does not know a noise level.
        ArtifactError: Guide and autoencoder have different encoders.
    """
    if isinstance(teacher, ClassifierTeacher):
        classifier = inputs[f"{TEACHER}.classifier"]
        require_same_labels(labels_sha256, classifier, what="added.teacher")
        if not (classifier.path / TEMPERATURE).exists():
            raise ConfigError(
                f"added.teacher {classifier.reference} is not calibrated: its labels would be too"
                " sure; train it with calibration: {folds: 4}"
            )
        return
    guide, denoiser = (inputs[f"{TEACHER}.{key}"] for key in ("guide", "denoiser"))
    require_same_labels(labels_sha256, guide, what="added.teacher")
    if guide.manifest.inputs.get(str(denoiser.reference)) != denoiser.manifest.fingerprint:
        raise ConfigError(
            f"added.teacher: guide {guide.reference} was not trained for {denoiser.reference}; name"
            " the denoiser that it was trained for"
        )
    require_same_encoder(denoiser, inputs[f"{TEACHER}.autoencoder"])
    low, high = guide.manifest.contents.get(SIGMAS, (0.0, math.inf))
    beyond = [each for each in teacher.sigmas if not low <= each <= high]
    if beyond:
        raise ConfigError(
            f"added.teacher.sigmas {beyond}: guide {guide.reference} knows noise levels from"
            f" {low:g} to {high:g}; judge at those"
        )


def open_teacher(
    teacher: GuideTeacher | ClassifierTeacher,
    inputs: Mapping[str, Artifact],
    *,
    classes: tuple[str, ...],
    root: StoragePath,
    batch: int,
    device: str,
) -> Predictor:
    """What the teacher says of images: calibrated probabilities of ``classes``.

    Raises:
        ConfigError: It tells other classes apart.
    """
    if isinstance(teacher, ClassifierTeacher):
        artifact = inputs[f"{TEACHER}.classifier"]
        opened = open_classifier(artifact, root, batch=batch, device=device)
        _require_classes(opened.classes, classes, artifact)
        return opened.predict
    return _guide(teacher, inputs, classes=classes, batch=batch, device=device)


def _guide(
    teacher: GuideTeacher,
    inputs: Mapping[str, Artifact],
    *,
    classes: tuple[str, ...],
    batch: int,
    device: str,
) -> Predictor:
    denoiser = inputs[f"{TEACHER}.denoiser"]

    def opened(snapshot: str) -> Denoiser:
        return open_denoiser(denoiser, device=device, snapshot=snapshot).denoiser

    artifact = inputs[f"{TEACHER}.guide"]
    guide = load_guide(artifact.path, opened, device)
    _require_classes(tuple(guide.classes), classes, artifact)
    loaded = open_denoiser(denoiser, device=device)
    whitening = Whitening(loaded.whitening_mean, loaded.whitening_scale)
    autoencoder = open_autoencoder(inputs[f"{TEACHER}.autoencoder"], device=device)

    @torch.no_grad()
    def predict(pixels_NHWC: Pixels) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        # pixels uint8 -> posterior means -> whitened, noisy latents -> mean probability (N, K)
        found = []
        with progress("teacher", total=len(pixels_NHWC), unit="images") as bar:
            for start in range(0, len(pixels_NHWC), batch):
                part = torch.from_numpy(pixels_NHWC[start : start + batch]).to(device)
                clean = whitening.apply(autoencoder.encode(part.permute(0, 3, 1, 2)).mean)
                said = []
                for number, sigma in enumerate(teacher.sigmas):
                    noise = np.stack([
                        generator_for(0, "teacher-noise", number, start + place).standard_normal(
                            loaded.latent_shape, np.float32
                        )
                        for place in range(len(part))
                    ])  # fmt: skip
                    noisy = clean + sigma * torch.from_numpy(noise).to(clean)
                    sigma_B = torch.full((len(part),), sigma, device=device)
                    said.append(guide.log_probabilities(noisy, sigma_B).double().exp())
                found.append(torch.stack(said).mean(dim=0).cpu().numpy())
                bar.advance(len(part))
        return np.concatenate(found)

    return predict


def _require_classes(known: tuple[str, ...], wanted: tuple[str, ...], artifact: Artifact) -> None:
    if known != wanted:
        raise ConfigError(
            f"added.teacher {artifact.reference} tells {', '.join(known)} apart, the patches are of"
            f" {', '.join(wanted)}; name a teacher of these patches"
        )
