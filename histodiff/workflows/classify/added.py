"""Images that are learned from: the labelled patches, and what joins them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from histodiff.artifacts import Artifact
from histodiff.classification.images import (
    Images,
    RealImages,
    num_added,
    read_real,
    read_selected,
)
from histodiff.classification.learning_set import LearningSet, added_images, learning_set
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.samples import SampleStore, Selection
from histodiff.workflows.classify.config import ClassifyConfig
from histodiff.workflows.labels import LabelledRows


@dataclass(frozen=True)
class Training:
    """Images that are learned from, and how many of them are synthetic."""

    real: RealImages
    synthetic: Images | None

    @property
    def num_synthetic(self) -> int:
        """Number of synthetic images."""
        return 0 if self.synthetic is None else len(self.synthetic)


def training_images(
    config: ClassifyConfig, index: PatchIndex, labels: LabelledRows, inputs: dict[str, Artifact]
) -> Training:
    """What the classifier learns from."""
    real = read_real(index, labels.rows, classes=index.classes)
    if "selection" not in inputs:
        return Training(real, None)
    synthetic = read_selected(
        SampleStore.open(inputs["samples"].path),
        Selection.open(inputs["selection"].path),
        count=num_added(config.synthetic_ratio, len(labels.rows)),
        classes=index.classes,
        patch_px=index.patch_px,
    )
    return Training(real, synthetic)


def learned_from(config: ClassifyConfig, index: PatchIndex, training: Training) -> LearningSet:
    """The images with their targets and their shares of the batches."""
    num_classes = len(index.classes)
    synthetic = training.synthetic
    return learning_set(
        training.real.images,
        None if synthetic is None else added_images(synthetic, num_classes=num_classes),
        num_classes=num_classes,
        mixing=config.mixing,
    )


def counts_of(config: ClassifyConfig, index: PatchIndex, training: Training) -> dict[str, Any]:
    """Training images per class, and how many were to be added."""
    synthetic = np.zeros(0, np.int64) if training.synthetic is None else training.synthetic.target_N
    return {
        "real": _counts(training.real.images.target_N, index.classes),
        "synthetic": _counts(synthetic, index.classes),
        "synthetic_wanted": num_added(config.synthetic_ratio, len(training.real.images)),
    }


def _counts(target_N: np.ndarray[Any, Any], classes: tuple[str, ...]) -> dict[str, int]:
    return {label: int((target_N == number).sum()) for number, label in enumerate(classes)}
