"""Real patches that join the labelled ones: guessed, retrieved, or with their true labels.

Which ones joined, and with which targets, is kept as a table. True labels are looked at for
stand-ins alone; of the others they only say how often the likeliest class was right. Legend: N
images, D features, K classes, M patches of the pool.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact, UnitIssue
from histodiff.classification.images import RealImages, read_patches, read_real
from histodiff.classification.learning_set import AddedImages, added_images, hard_targets
from histodiff.classification.pseudo_labels import pseudo_labelled, soft_targets
from histodiff.classification.retrieval import retrieved
from histodiff.classification.stand_ins import stand_ins
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.features.extractor import extracted_features
from histodiff.storage import StoragePath
from histodiff.workflows.classify.additions import (
    EXTRACTOR,
    POOL,
    AddedPseudoLabels,
    AddedRetrieval,
    AddedStandIns,
)
from histodiff.workflows.classify.candidates import Candidates, candidates
from histodiff.workflows.classify.config import ClassifyConfig
from histodiff.workflows.classify.teachers import open_teacher
from histodiff.workflows.labels import LabelledRows, require_same_labels
from histodiff.workflows.quality.extractors import open_extractor


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
class Context:
    """What all kinds of additions need."""

    config: ClassifyConfig
    index: PatchIndex
    labels: LabelledRows
    inputs: Mapping[str, Artifact]
    root: StoragePath
    device: str
    wanted: int
    """Images that are to join."""


def pseudo_label_patches(context: Context, added: AddedPseudoLabels) -> Added:
    """Patches with the soft labels that a teacher gives them."""
    config, index = context.config, context.index
    found = candidates_of(config, added, index, context.labels, context.inputs)
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


def retrieved_patches(context: Context, added: AddedRetrieval, real: RealImages) -> Added:
    """Patches that look like labelled ones."""
    config, index = context.config, context.index
    found = candidates_of(config, added, index, context.labels, context.inputs)
    read = read_patches(found.index, found.patches_N)
    extractor = open_extractor(
        added.extractor, extractor_inputs_of(context.inputs), device=context.device
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


def stand_in_images(context: Context) -> Added:
    """Patches with their true labels."""
    index = context.index
    patches_N = stand_in_patches(context.config, index, context.labels)
    read = read_real(index, patches_N, classes=index.classes)
    images = added_images(read.images, num_classes=len(index.classes))
    return Added(images, read.failed, _patches(context, index, read.patches_N, images))


def stand_in_patches(
    config: ClassifyConfig, index: PatchIndex, labels: LabelledRows
) -> npt.NDArray[np.int64]:
    """Numbers of the patches that stand for perfect samples, in their order."""
    added = config.addition
    assert isinstance(added, AddedStandIns)
    plan = stand_ins(
        index.patches, labels.rows, kind=added.stand_in, ratio=config.synthetic_ratio,
        num_folds=2, seed=config.seed,
    )  # fmt: skip
    return plan.folds[0].added_M


def candidates_of(
    config: ClassifyConfig,
    added: AddedPseudoLabels | AddedRetrieval,
    index: PatchIndex,
    labels: LabelledRows,
    inputs: Mapping[str, Artifact],
) -> Candidates:
    """Patches that may join without a look at their labels.

    Raises:
        ConfigError: There are none, or they are none that may join.
    """
    pool = inputs.get(POOL)
    if pool is not None and pool.reference == inputs["patches"].reference:
        pool = None  # the target itself: what the budget holds stays out, splits are redrawn alike
    return candidates(index, labels.rows, pool, limit=added.candidates, seed=config.seed)


def _patches(
    context: Context,
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


def extractor_inputs_of(inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Inputs of the extractor, by the key that a block ``extractor`` gives them."""
    return {
        key.removeprefix("added."): artifact
        for key, artifact in inputs.items()
        if key.startswith(f"{EXTRACTOR}.")
    }


def require_extractor_of(inputs: Mapping[str, Artifact], labels: LabelledRows) -> None:
    """Checks that a classifier whose features are compared knows no other labels.

    Raises:
        ConfigError: It does.
    """
    classifier = inputs.get(f"{EXTRACTOR}.classifier")
    if classifier is not None:
        require_same_labels(labels.sha256, classifier, what="added.extractor")
