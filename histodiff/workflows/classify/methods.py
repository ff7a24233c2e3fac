"""Classifiers of every method: fitted on a learning set, saved, and opened again to predict.

A classifier is, to everything else, a function of pixels to probabilities. Features of linear
methods are functions of pixels too, so that any classifier can judge any patch. Legend: N images,
D features, K classes.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter

from histodiff.artifacts import Artifact, Reference, UnitIssue, open_artifact
from histodiff.classification.colour import colour_histograms
from histodiff.classification.images import Pixels, read_patches
from histodiff.classification.learning_set import LearningSet, image_weights
from histodiff.classification.pseudo_labels import tempered
from histodiff.classification.self_supervised import (
    self_supervised_classifier,
    set_linear_head,
)
from histodiff.classification.training import predicted_probability, trained_classifier
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ArtifactCorrupt
from histodiff.features.extractor import image_features
from histodiff.features.logistic import LogisticModel, fitted_logistic, logistic_model
from histodiff.latents import Whitening
from histodiff.models.classifier import Classifier, load_classifier, save_classifier
from histodiff.models.feature_head import DenoiserFeatures
from histodiff.models.weights import DESCRIPTION, read_model, save_model
from histodiff.runtime import generator_for
from histodiff.storage import StoragePath, write_bytes
from histodiff.telemetry import progress
from histodiff.training import MetricsRow
from histodiff.workflows.classify.candidates import candidates
from histodiff.workflows.classify.config import ClassifyConfig
from histodiff.workflows.classify.method_kinds import (
    AUTOENCODER,
    DENOISER,
    ENCODER,
    UNLABELLED,
    DenoiserFeaturesMethod,
    FeatureMethod,
    LinearMethod,
    NetworkMethod,
    SelfSupervisedMethod,
    method_inputs,
)
from histodiff.workflows.networks import open_autoencoder, open_denoiser

Probabilities = npt.NDArray[np.float64]
Predictor = Callable[[Pixels], Probabilities]
"""Probabilities (N, K) of images uint8."""
Interim = Callable[[Predictor], Mapping[str, float]]
"""Metrics of a classifier that is being trained."""
Features = Callable[[Pixels], npt.NDArray[np.floating[Any]]]
"""Features (N, D) of images uint8."""

TEMPERATURE = "temperature.json"
_LINEAR = "linear-classifier"
_FEATURE_METHOD: TypeAdapter[FeatureMethod] = TypeAdapter(FeatureMethod)


@dataclass(frozen=True)
class Fitted:
    """A classifier that was fitted just now."""

    predict: Predictor
    save: Callable[[StoragePath], None]
    """Writes it into a folder."""
    records: list[MetricsRow]
    """Of its training; empty where there are no steps."""
    failed: tuple[UnitIssue, ...] = ()
    """Unlabelled patches that could not be read."""


@dataclass(frozen=True)
class OpenedClassifier:
    """A finished classifier."""

    predict: Predictor
    """Calibrated, where it has a temperature."""
    classes: tuple[str, ...]
    temperature: float | None
    """None where it was not calibrated."""


def fitted(
    config: ClassifyConfig,
    images: LearningSet,
    inputs: Mapping[str, Artifact],
    *,
    index: PatchIndex,
    checkpoints: StoragePath,
    without_labels: StoragePath,
    run: str,
    device: str,
    interim: Interim | None = None,
) -> Fitted:
    """The classifier that the config describes, of these images.

    Args:
        config: Method and settings.
        images: What is learned from.
        inputs: Artifacts that the method reads, by their key.
        index: The target.
        checkpoints: Folder of the checkpoints of a network.
        without_labels: The same of what learns without labels: one for all learning sets.
        run: Name on the progress bar.
        device: Where networks run.
        interim: Metrics midway, for whoever listens; methods without steps have none.
    """
    classes = index.classes
    match config.method:
        case NetworkMethod():
            trained = trained_classifier(
                images, backbone=config.networks_backbone, training=config.networks_training,
                num_classes=len(classes), seed=config.seed, device=device,
                checkpoints=checkpoints, run=run, tuned=config.tuned,
                interim=_of_network(interim, config, device),
            )  # fmt: skip
            return _network(config, trained.classifier, trained.records, classes, device)
        case SelfSupervisedMethod() as method:
            encoder = _self_supervised(
                config, method, inputs, index=index, checkpoints=without_labels, device=device
            )
            encode = partial(
                image_features, encoder.classifier, batch=config.eval_batch, device=device
            )
            set_linear_head(encoder.classifier, _logistic(method, encode, images))
            network = _network(config, encoder.classifier, encoder.records, classes, device)
            return replace(network, failed=encoder.failed)
        case method:
            features = pixel_features(method, inputs, batch=config.eval_batch, device=device)
            model = _logistic(method, features, images)
            return Fitted(
                lambda pixels_NHWC: model.probability(features(pixels_NHWC)),
                lambda path: _save_linear(path, model, method, classes),
                [],
            )


@dataclass(frozen=True)
class _Encoder:
    """A network that learned without labels."""

    classifier: Classifier
    records: list[MetricsRow]
    failed: tuple[UnitIssue, ...]


def _self_supervised(
    config: ClassifyConfig,
    method: SelfSupervisedMethod,
    inputs: Mapping[str, Artifact],
    *,
    index: PatchIndex,
    checkpoints: StoragePath,
    device: str,
) -> _Encoder:
    """The network of the method, trained or taken; its head says nothing yet."""
    if method.pretraining is None:
        taken = load_classifier(inputs[ENCODER].path, device=device).classifier
        return _Encoder(taken, [], ())
    found = candidates(
        index, np.zeros(0, np.int64), inputs.get(UNLABELLED), limit=method.candidates,
        seed=config.seed, field=UNLABELLED,
    )  # fmt: skip
    read = read_patches(found.index, found.patches_N)
    trained, records = self_supervised_classifier(
        read.pixels_NHWC, backbone=config.networks_backbone, training=method.pretraining,
        num_classes=len(index.classes), seed=config.seed, device=device, checkpoints=checkpoints,
    )  # fmt: skip
    return _Encoder(trained, records, read.failed)


def _of_network(
    interim: Interim | None, config: ClassifyConfig, device: str
) -> Callable[[Classifier], Mapping[str, float]] | None:
    if interim is None:
        return None

    def of(classifier: Classifier) -> Mapping[str, float]:
        predict = partial(predicted_probability, classifier, batch=config.eval_batch, device=device)
        return interim(predict)

    return of


def _logistic(method: LinearMethod, features: Features, images: LearningSet) -> LogisticModel:
    weight_N1 = image_weights(images, balanced=method.class_balanced)[:, None]
    return fitted_logistic(
        features(images.pixels_NHWC), weight_N1 * images.target_NK,
        inverse_penalty=method.inverse_penalty,
    )  # fmt: skip


def _network(
    config: ClassifyConfig,
    classifier: Classifier,
    records: list[MetricsRow],
    classes: tuple[str, ...],
    device: str,
) -> Fitted:
    return Fitted(
        partial(predicted_probability, classifier, batch=config.eval_batch, device=device),
        lambda path: save_classifier(path, classifier, classes=classes),
        records,
    )


def save_temperature(path: StoragePath, temperature: float) -> None:
    """Writes the temperature of a classifier beside it."""
    write_bytes(path / TEMPERATURE, (json.dumps({"temperature": temperature}) + "\n").encode())


def open_classifier(
    artifact: Artifact, root: StoragePath, *, batch: int, device: str
) -> OpenedClassifier:
    """A finished classifier of any method, and what it reads.

    Args:
        artifact: The classifier.
        root: Where the artifacts are that its features come from.
        batch: Images per forward pass.
        device: Where it runs.

    Raises:
        ArtifactNotFound: A network that its features come from is gone.
        ArtifactCorrupt: It is damaged, or its features come from another network now.
    """
    plain, classes = _opened_plain(artifact, root, batch=batch, device=device)
    temperature = _stored_temperature(artifact.path)
    if temperature is None:
        return OpenedClassifier(plain, classes, None)
    return OpenedClassifier(
        lambda pixels_NHWC: tempered(plain(pixels_NHWC), temperature), classes, temperature
    )


def pixel_features(
    method: FeatureMethod, inputs: Mapping[str, Artifact], *, batch: int, device: str
) -> Features:
    """Features of images, as a method wants them."""
    if isinstance(method, DenoiserFeaturesMethod):
        return _denoiser_features(method, inputs, batch=batch, device=device)
    return partial(colour_histograms, bins=method.bins)


def _denoiser_features(
    method: DenoiserFeaturesMethod, inputs: Mapping[str, Artifact], *, batch: int, device: str
) -> Features:
    loaded = open_denoiser(inputs[DENOISER], device=device, snapshot=method.snapshot)
    autoencoder = open_autoencoder(inputs[AUTOENCODER], device=device)
    whitening = Whitening(loaded.whitening_mean, loaded.whitening_scale)
    network = DenoiserFeatures(loaded.denoiser, method.layers, field="method.layers")
    noise = {
        sigma: torch.from_numpy(
            generator_for(0, "probe-noise", number).standard_normal(loaded.latent_shape, np.float32)
        ).to(device)
        for number, sigma in enumerate(method.sigmas)
    }

    @torch.no_grad()
    def features(pixels_NHWC: Pixels) -> npt.NDArray[np.float32]:
        # pixels uint8 -> posterior means -> whitened, noisy latents -> means and deviations
        parts = []
        for pixels_BCHW in _batches(pixels_NHWC, batch=batch, device=device):
            clean_BCHW = whitening.apply(autoencoder.encode(pixels_BCHW).mean)
            ones_B = torch.ones(len(clean_BCHW), device=device)
            found = [
                network(clean_BCHW + sigma * each, sigma * ones_B) for sigma, each in noise.items()
            ]
            parts.append(torch.cat(found, dim=1).cpu().numpy())
        return np.concatenate(parts)

    return features


def _batches(pixels_NHWC: Pixels, *, batch: int, device: str) -> Iterator[torch.Tensor]:
    with progress("features", total=len(pixels_NHWC), unit="images") as bar:
        for start in range(0, len(pixels_NHWC), batch):
            part = torch.from_numpy(pixels_NHWC[start : start + batch]).to(device)
            yield part.permute(0, 3, 1, 2)
            bar.advance(len(part))


def _save_linear(
    path: StoragePath, model: LogisticModel, method: FeatureMethod, classes: tuple[str, ...]
) -> None:
    save_model(
        path,
        model=_LINEAR,
        state={name: torch.from_numpy(value) for name, value in model.arrays().items()},
        description={"method": method.model_dump(mode="json"), "classes": list(classes)},
    )


def _opened_plain(
    artifact: Artifact, root: StoragePath, *, batch: int, device: str
) -> tuple[Predictor, tuple[str, ...]]:
    """Its probabilities without a temperature, and its classes."""
    if json.loads((artifact.path / DESCRIPTION).read_bytes()).get("model") != _LINEAR:
        loaded = load_classifier(artifact.path, device=device)
        predict = partial(predicted_probability, loaded.classifier, batch=batch, device=device)
        return predict, loaded.classes
    stored = read_model(artifact.path, model=_LINEAR)
    method = _FEATURE_METHOD.validate_python(stored.description["method"])
    inputs = {
        key: _unchanged(open_artifact(root, address), artifact)
        for key, address in method_inputs(method).items()
    }
    features = pixel_features(method, inputs, batch=batch, device=device)
    model = logistic_model({name: value.numpy() for name, value in stored.state.items()})
    return (
        lambda pixels_NHWC: model.probability(features(pixels_NHWC)),
        tuple(stored.description["classes"]),
    )


def _unchanged(found: Artifact, reader: Artifact) -> Artifact:
    known = reader.manifest.inputs.get(str(Reference(found.reference)))
    if known != found.manifest.fingerprint:
        raise ArtifactCorrupt(
            f"{reader.reference} was made with another {found.reference}; train it anew"
        )
    return found


def _stored_temperature(path: StoragePath) -> float | None:
    try:
        return float(json.loads((path / TEMPERATURE).read_bytes())["temperature"])
    except FileNotFoundError:
        return None
