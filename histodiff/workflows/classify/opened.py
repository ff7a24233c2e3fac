"""Finished classifiers of every method, opened again to predict.

A classifier is, to everything else, a function of pixels to probabilities, so that any can judge
any patch. Legend: N images, K classes.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter

from histodiff.artifacts import Artifact, Reference, open_artifact
from histodiff.classification.images import Pixels
from histodiff.classification.pseudo_labels import tempered
from histodiff.classification.training import predicted_probability
from histodiff.errors import ArtifactCorrupt
from histodiff.features.logistic import LogisticModel, logistic_model
from histodiff.models.classifier import load_classifier
from histodiff.models.weights import DESCRIPTION, read_model, save_model
from histodiff.storage import StoragePath, write_bytes
from histodiff.workflows.classify.method_kinds import FeatureMethod, method_inputs
from histodiff.workflows.classify.pixel_features import pixel_features

Probabilities = npt.NDArray[np.float64]
Predictor = Callable[[Pixels], Probabilities]
"""Probabilities (N, K) of images uint8."""

TEMPERATURE = "temperature.json"
_LINEAR = "linear-classifier"
_FEATURE_METHOD: TypeAdapter[FeatureMethod] = TypeAdapter(FeatureMethod)


@dataclass(frozen=True)
class OpenedClassifier:
    """A finished classifier."""

    predict: Predictor
    """Calibrated, where it has a temperature."""
    classes: tuple[str, ...]
    temperature: float | None
    """None where it was not calibrated."""


def save_linear(
    path: StoragePath, model: LogisticModel, method: FeatureMethod, classes: tuple[str, ...]
) -> None:
    """Writes a linear classifier, and what its features are."""
    save_model(
        path,
        model=_LINEAR,
        state={name: torch.from_numpy(value) for name, value in model.arrays().items()},
        description={"method": method.model_dump(mode="json"), "classes": list(classes)},
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
