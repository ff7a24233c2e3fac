"""Classifiers of every method, fitted on a learning set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from histodiff.artifacts import Artifact, UnitIssue
from histodiff.classification.images import read_patches
from histodiff.classification.learning_set import LearningSet, image_weights
from histodiff.classification.self_supervised import (
    self_supervised_classifier,
    set_linear_head,
)
from histodiff.classification.training import predicted_probability, trained_classifier
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.features.extractor import image_features
from histodiff.features.logistic import LogisticModel, fitted_logistic
from histodiff.models.classifier import Classifier, load_classifier, save_classifier
from histodiff.storage import StoragePath
from histodiff.training import MetricsRow
from histodiff.workflows.classify.candidates import candidates
from histodiff.workflows.classify.config import ClassifyConfig
from histodiff.workflows.classify.method_kinds import (
    ENCODER,
    UNLABELLED,
    LinearMethod,
    NetworkMethod,
    SelfSupervisedMethod,
)
from histodiff.workflows.classify.opened import Predictor, save_linear
from histodiff.workflows.classify.pixel_features import Features, pixel_features

Interim = Callable[[Predictor], Mapping[str, float]]
"""Metrics of a classifier that is being trained."""


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
                lambda path: save_linear(path, model, method, classes),
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
