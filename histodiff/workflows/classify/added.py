"""Images that are learned from: the labelled patches, and what joins them.

Whatever joins is as many images as ``synthetic_ratio`` asks for, of whatever kind, so that arms
differ in the images alone. Legend: N images, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact, UnitIssue
from histodiff.classification.images import RealImages, num_added, read_real, read_selected
from histodiff.classification.learning_set import LearningSet, added_images, learning_set
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.samples import SampleStore, Selection
from histodiff.storage import StoragePath
from histodiff.workflows.classify.additions import (
    AddedPseudoLabels,
    AddedRetrieval,
    AddedSamples,
    AddedStandIns,
)
from histodiff.workflows.classify.config import ClassifyConfig
from histodiff.workflows.classify.real_patches import (
    Added,
    Context,
    candidates_of,
    extractor_inputs_of,
    pseudo_label_patches,
    require_extractor_of,
    retrieved_patches,
    stand_in_images,
    stand_in_patches,
)
from histodiff.workflows.classify.teachers import check_teacher
from histodiff.workflows.labels import LabelledRows, require_same_labels
from histodiff.workflows.quality.extractors import check_extractor
from histodiff.workflows.tables import write_table

ADDED_TABLE = "added.parquet"


@dataclass(frozen=True)
class Training:
    """Images that are learned from."""

    real: RealImages
    added: Added | None
    num_wanted: int
    """Images that were to join."""

    @property
    def num_added(self) -> int:
        """Images that joined."""
        return 0 if self.added is None else len(self.added.images)

    @property
    def failed(self) -> tuple[UnitIssue, ...]:
        """Patches that could not be read."""
        return self.real.failed + (() if self.added is None else self.added.failed)


def check_added(
    config: ClassifyConfig,
    index: PatchIndex,
    labels: LabelledRows,
    inputs: Mapping[str, Artifact],
) -> None:
    """Whether what is to join may join, before any pixel is read.

    Raises:
        ConfigError: It saw labels beyond the budget, does not fit, or there is none.
    """
    match config.addition:
        case AddedSamples():
            selection, samples = inputs["selection"], inputs["samples"]
            require_same_labels(labels.sha256, selection, what="selection")
            made_from = selection.manifest.inputs.get(str(samples.reference))
            if made_from != samples.manifest.fingerprint:
                raise ConfigError(
                    f"selection {selection.reference} is not of samples {samples.reference}; name"
                    " the samples it was made from"
                )
        case AddedPseudoLabels() as added:
            check_teacher(added.teacher, inputs, labels.sha256)
            candidates_of(config, added, index, labels, inputs)
        case AddedRetrieval() as added:
            check_extractor(added.extractor, extractor_inputs_of(inputs))
            require_extractor_of(inputs, labels)
            candidates_of(config, added, index, labels, inputs)
        case AddedStandIns():
            stand_in_patches(config, index, labels)
        case None:
            pass


def training_images(
    config: ClassifyConfig,
    index: PatchIndex,
    labels: LabelledRows,
    inputs: Mapping[str, Artifact],
    *,
    root: StoragePath,
    device: str,
) -> Training:
    """What the classifier learns from."""
    real = read_real(index, labels.rows, classes=index.classes)
    wanted = num_added(config.synthetic_ratio, len(labels.rows))
    context = Context(config, index, labels, inputs, root, device, wanted)
    match config.addition:
        case AddedSamples():
            return Training(real, _samples(context), wanted)
        case AddedPseudoLabels() as added:
            return Training(real, pseudo_label_patches(context, added), wanted)
        case AddedRetrieval() as added:
            return Training(real, retrieved_patches(context, added, real), wanted)
        case AddedStandIns():
            return Training(real, stand_in_images(context), wanted)
        case None:
            return Training(real, None, 0)


def learned_from(config: ClassifyConfig, index: PatchIndex, training: Training) -> LearningSet:
    """The images with their targets and their shares of the batches."""
    return learning_set(
        training.real.images,
        None if training.added is None else training.added.images,
        num_classes=len(index.classes),
        mixing=config.mixing,
    )


def counts_of(index: PatchIndex, training: Training) -> dict[str, Any]:
    """Training images per class, and how many were to be added."""
    added = training.added
    classes_N = np.zeros(0, np.int64) if added is None else added.images.class_N
    return {
        "real": _counts(training.real.images.target_N, index.classes),
        "synthetic": _counts(classes_N, index.classes),
        "synthetic_wanted": training.num_wanted,
        "added_right": added.patches.right if added and added.patches else None,
    }


def write_added(path: StoragePath, index: PatchIndex, training: Training) -> None:
    """Writes ``added.parquet``, where real patches joined: which, and with which targets."""
    if training.added is None or training.added.patches is None:
        return
    target_NK = training.added.images.target_NK
    targets = {f"target.{name}": target_NK[:, k] for k, name in enumerate(index.classes)}
    write_table(path / ADDED_TABLE, {**training.added.patches.columns, **targets})


def _samples(context: Context) -> Added:
    inputs, index = context.inputs, context.index
    images = read_selected(
        SampleStore.open(inputs["samples"].path),
        Selection.open(inputs["selection"].path),
        count=context.wanted,
        classes=index.classes,
        patch_px=index.patch_px,
    )
    return Added(added_images(images, num_classes=len(index.classes)))


def _counts(target_N: npt.NDArray[np.int64], classes: tuple[str, ...]) -> dict[str, int]:
    return {label: int((target_N == number).sum()) for number, label in enumerate(classes)}
