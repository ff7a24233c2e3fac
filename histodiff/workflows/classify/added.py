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
from histodiff.classification.images import (
    RealImages,
    num_added,
    read_patches,
    read_real,
    read_selected,
)
from histodiff.classification.learning_set import (
    AddedImages,
    LearningSet,
    added_images,
    hard_targets,
    learning_set,
)
from histodiff.classification.pseudo_labels import pseudo_labelled, soft_targets
from histodiff.classification.retrieval import retrieved
from histodiff.classification.stand_ins import stand_ins
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.features.extractor import extracted_features
from histodiff.samples import SampleStore, Selection
from histodiff.storage import StoragePath
from histodiff.workflows.classify.additions import (
    EXTRACTOR,
    POOL,
    AddedPseudoLabels,
    AddedRetrieval,
    AddedSamples,
    AddedStandIns,
)
from histodiff.workflows.classify.candidates import candidates
from histodiff.workflows.classify.config import ClassifyConfig
from histodiff.workflows.classify.teachers import check_teacher, open_teacher
from histodiff.workflows.labels import LabelledRows, require_same_labels
from histodiff.workflows.quality.extractors import check_extractor, open_extractor
from histodiff.workflows.tables import write_table

ADDED_TABLE = "added.parquet"


@dataclass(frozen=True)
class AddedPatches:
    """Which real patches joined, and what the index says of them."""

    columns: Mapping[str, Any]
    right: float | None
    """Share whose likeliest class is the true one, where true labels are known; never used."""


@dataclass(frozen=True)
class Added:
    """What joined."""

    images: AddedImages
    failed: tuple[UnitIssue, ...] = ()
    patches: AddedPatches | None = None
    """None for samples."""


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
            _candidates(config, added, index, labels, inputs)
        case AddedRetrieval() as added:
            check_extractor(added.extractor, _extractor_inputs(inputs))
            _require_extractor_without_labels(inputs, labels)
            _candidates(config, added, index, labels, inputs)
        case AddedStandIns():
            _stand_in_patches(config, index, labels)
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
    context = _Context(config, index, labels, inputs, root, device, wanted)
    match config.addition:
        case AddedSamples():
            return Training(real, _samples(context), wanted)
        case AddedPseudoLabels() as added:
            return Training(real, _pseudo_labels(context, added), wanted)
        case AddedRetrieval() as added:
            return Training(real, _retrieval(context, added, real), wanted)
        case AddedStandIns():
            return Training(real, _stand_ins(context), wanted)
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


@dataclass(frozen=True)
class _Context:
    config: ClassifyConfig
    index: PatchIndex
    labels: LabelledRows
    inputs: Mapping[str, Artifact]
    root: StoragePath
    device: str
    wanted: int


def _samples(context: _Context) -> Added:
    inputs, index = context.inputs, context.index
    images = read_selected(
        SampleStore.open(inputs["samples"].path),
        Selection.open(inputs["selection"].path),
        count=context.wanted,
        classes=index.classes,
        patch_px=index.patch_px,
    )
    return Added(added_images(images, num_classes=len(index.classes)))


def _pseudo_labels(context: _Context, added: AddedPseudoLabels) -> Added:
    config, index = context.config, context.index
    found = _candidates(config, added, index, context.labels, context.inputs)
    read = read_patches(found.index, found.patches_N)
    predict = open_teacher(
        added.teacher, context.inputs, classes=index.classes, root=context.root,
        batch=config.eval_batch, device=context.device,
    )  # fmt: skip
    probability_NK = predict(read.pixels_NHWC)
    rows = pseudo_labelled(
        probability_NK, count=context.wanted, choice=added.choice, seed=config.seed
    )
    target_NK = soft_targets(probability_NK[rows], weighting=added.weighting)
    images = AddedImages(read.pixels_NHWC[rows], target_NK)
    patches = _patches(context, found.index, read.patches_N[rows], images)
    return Added(images, read.failed, patches)


def _retrieval(context: _Context, added: AddedRetrieval, real: RealImages) -> Added:
    config, index = context.config, context.index
    found = _candidates(config, added, index, context.labels, context.inputs)
    read = read_patches(found.index, found.patches_N)
    extractor = open_extractor(
        added.extractor, _extractor_inputs(context.inputs), device=context.device
    )
    pool_MD, labelled_ND = (
        extracted_features(extractor, [pixels], total=len(pixels), batch=config.eval_batch)[0]
        for pixels in (read.pixels_NHWC, real.images.pixels_NHWC)
    )
    nearest = retrieved(pool_MD, labelled_ND, real.images.target_N, count=context.wanted)
    target_N = real.images.target_N[nearest.labelled_N]
    images = AddedImages(
        read.pixels_NHWC[nearest.row_N], hard_targets(target_N, num_classes=len(index.classes))
    )
    extra = {"looks_like": real.patches_N[nearest.labelled_N]}
    patches = _patches(context, found.index, read.patches_N[nearest.row_N], images, extra)
    return Added(images, read.failed, patches)


def _stand_ins(context: _Context) -> Added:
    index = context.index
    patches_N = _stand_in_patches(context.config, index, context.labels)
    read = read_real(index, patches_N, classes=index.classes)
    images = added_images(read.images, num_classes=len(index.classes))
    return Added(images, read.failed, _patches(context, index, read.patches_N, images))


def _stand_in_patches(
    config: ClassifyConfig, index: PatchIndex, labels: LabelledRows
) -> npt.NDArray[np.int64]:
    added = config.addition
    assert isinstance(added, AddedStandIns)
    plan = stand_ins(
        index.patches, labels.rows, kind=added.stand_in, ratio=config.synthetic_ratio,
        num_folds=2, seed=config.seed,
    )  # fmt: skip
    return plan.folds[0].added_M


def _candidates(
    config: ClassifyConfig,
    added: AddedPseudoLabels | AddedRetrieval,
    index: PatchIndex,
    labels: LabelledRows,
    inputs: Mapping[str, Artifact],
) -> Any:
    return candidates(
        index, labels.rows, inputs.get(POOL), limit=added.candidates, seed=config.seed
    )


def _patches(
    context: _Context,
    pool: PatchIndex,
    patches_N: npt.NDArray[np.int64],
    images: AddedImages,
    extra: Mapping[str, Any] | None = None,
) -> AddedPatches:
    rows = pool.patches.take(patches_N)
    truth = rows["label"].to_pylist()
    classes = context.index.classes
    said = [classes[number] for number in images.class_N.tolist()]
    known = [own == true for own, true in zip(said, truth, strict=True) if true in classes]
    columns = {
        "patch": patches_N,
        "slide_id": rows["slide_id"],
        "patient_id": rows["patient_id"],
        **(extra or {}),
    }
    return AddedPatches(columns, sum(known) / len(known) if known else None)


def _extractor_inputs(inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Inputs of the extractor, by the key that a block ``extractor`` gives them."""
    return {
        key.removeprefix("added."): artifact
        for key, artifact in inputs.items()
        if key.startswith(f"{EXTRACTOR}.")
    }


def _require_extractor_without_labels(inputs: Mapping[str, Artifact], labels: LabelledRows) -> None:
    classifier = inputs.get(f"{EXTRACTOR}.classifier")
    if classifier is not None:
        require_same_labels(labels.sha256, classifier, what="added.extractor")


def _counts(target_N: npt.NDArray[np.int64], classes: tuple[str, ...]) -> dict[str, int]:
    return {label: int((target_N == number).sum()) for number, label in enumerate(classes)}
