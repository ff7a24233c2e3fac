"""Soft labels for a guide: which artifacts they come from, and that they may be used.

What a guide may know is what its labels, and images without labels, say: the guide or classifier
that labels must have been trained with the same labels, and no patch of a validation or test slide
is shown.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact, Kind, Reference
from histodiff.classification.images import read_patches
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.guidance.kinds import load_guide
from histodiff.guidance.labelled import LabelledLatents, read_labelled
from histodiff.guidance.pseudo_labels import (
    ClassifierAsTeacher,
    GuideAsTeacher,
    PseudoLabelConfig,
    PseudoLabelled,
    soft_labels,
)
from histodiff.latents import LatentStore, Whitening
from histodiff.models.denoiser import Denoiser, LoadedDenoiser
from histodiff.storage import StoragePath
from histodiff.workflows.classify.opened import TEMPERATURE, open_classifier
from histodiff.workflows.labels import require_same_labels
from histodiff.workflows.networks import open_denoiser, require_patch_px, require_same_encoder

LATENTS = "kind.pseudo_labels.latents"
GUIDE = "kind.pseudo_labels.teacher.guide"
CLASSIFIER, PATCHES = "kind.pseudo_labels.teacher.classifier", "kind.pseudo_labels.teacher.patches"
"""Keys of the inputs."""
_KINDS = ("features",)


def pseudo_label_inputs(config: PseudoLabelConfig | None) -> dict[str, Reference]:
    """Full addresses of what soft labels come from, by config key."""
    if config is None:
        return {}
    latents = {LATENTS: config.latents.as_kind(Kind.LATENTS)}
    match config.teacher:
        case GuideAsTeacher(guide=guide):
            return {**latents, GUIDE: guide.as_kind(Kind.GUIDES)}
        case ClassifierAsTeacher() as teacher:
            return {
                **latents,
                CLASSIFIER: teacher.classifier.as_kind(Kind.CLASSIFIERS),
                PATCHES: teacher.patches.as_kind(Kind.PATCHES),
            }


def require_pseudo_labels(
    config: PseudoLabelConfig | None,
    inputs: Mapping[str, Artifact],
    labelled: LatentStore,
    *,
    labels_sha256: str,
) -> None:
    """Checks that soft labels can be given, and may.

    Args:
        config: What they come from; nothing is checked of None.
        inputs: All inputs of the command.
        labelled: The store of the labelled target.
        labels_sha256: The labels that may be known.

    Raises:
        ArtifactError: The latents are of another encoder.
        ConfigError: They are of another size, or of slides that are kept for validation or test;
            or the teacher knows other labels or classes, is not calibrated, is a guide of another
            kind or denoiser, or is to see other patches than the latents were encoded from.
    """
    if config is None:
        return
    unlabelled, denoiser = inputs[LATENTS], inputs["denoiser"]
    require_same_encoder(unlabelled, denoiser)
    store = _store(inputs, labelled)
    require_patch_px(store.patch_px, denoiser, owner=str(unlabelled.reference))
    _require_apart(store, labelled, unlabelled)
    match config.teacher:
        case GuideAsTeacher() as teacher:
            _require_guide(teacher, inputs)
            require_same_labels(labels_sha256, inputs[GUIDE], what=GUIDE)
            classes = tuple(inputs[GUIDE].manifest.contents["classes"])
            _require_classes(classes, labelled, inputs[GUIDE], what=GUIDE)
        case ClassifierAsTeacher():
            _require_classifier(inputs)
            require_same_labels(labels_sha256, inputs[CLASSIFIER], what=CLASSIFIER)


def _require_classes(
    known: tuple[str, ...], labelled: LatentStore, teacher: Artifact, *, what: str
) -> None:
    if known != tuple(labelled.classes):
        raise ConfigError(
            f"{what}: {teacher.reference} knows other classes; train it on those of `latents`"
        )


def _require_guide(teacher: GuideAsTeacher, inputs: Mapping[str, Artifact]) -> None:
    guide, denoiser = inputs[GUIDE], inputs["denoiser"]
    kind = guide.manifest.config["kind"]["type"]
    if kind not in _KINDS:
        raise ConfigError(
            f"{GUIDE}: {guide.reference} is of kind {kind}; name a guide of kind"
            f" {' or '.join(_KINDS)}"
        )
    if guide.manifest.inputs.get(str(denoiser.reference)) != denoiser.manifest.fingerprint:
        raise ConfigError(
            f"{GUIDE}: {guide.reference} was not trained for {denoiser.reference}; train one for it"
        )
    if teacher.sigma is None:
        _best_sigma(guide)


def _require_classifier(inputs: Mapping[str, Artifact]) -> None:
    classifier, patches, latents = inputs[CLASSIFIER], inputs[PATCHES], inputs[LATENTS]
    if not (classifier.path / TEMPERATURE).exists():
        raise ConfigError(
            f"{CLASSIFIER}: {classifier.reference} is not calibrated: its labels would be too sure;"
            " train it with calibration: {folds: 4}"
        )
    if latents.manifest.inputs.get(str(patches.reference)) != patches.manifest.fingerprint:
        raise ConfigError(
            f"{PATCHES}: {latents.reference} was not encoded from {patches.reference}; name the"
            " patches that it was encoded from"
        )


@dataclass(frozen=True)
class Asked:
    """What soft labels depend on beside the config."""

    inputs: Mapping[str, Artifact]
    labelled: LatentStore
    """The store of the labelled target, as it is divided."""
    denoiser: LoadedDenoiser
    root: StoragePath
    """Where the artifacts are that a classifier's features come from."""
    batch: int
    seed: int
    device: str


def pseudo_labelled(config: PseudoLabelConfig, asked: Asked) -> PseudoLabelled:
    """Training latents of the store without labels, with the soft labels that the guide gives.

    Raises:
        ConfigError: The store has none.
    """
    store = _store(asked.inputs, asked.labelled)
    loaded = asked.denoiser
    latents = read_labelled(
        store, store.rows_of_split("train"),
        whitening=Whitening(loaded.whitening_mean, loaded.whitening_scale), classes=None,
        view=loaded.info.view,
    )  # fmt: skip
    if not len(latents):
        raise ConfigError(
            f"{LATENTS}: {asked.inputs[LATENTS].reference} has no patch of split train"
        )
    match config.teacher:
        case GuideAsTeacher() as teacher:
            return PseudoLabelled(latents, _of_guide(teacher, latents, asked), config.share)
        case ClassifierAsTeacher():
            return _of_classifier(latents, asked, share=config.share)


def _of_guide(
    teacher: GuideAsTeacher, latents: LabelledLatents, asked: Asked
) -> npt.NDArray[np.float64]:
    guide = asked.inputs[GUIDE]

    def opened(snapshot: str) -> Denoiser:
        artifact = asked.inputs["denoiser"]
        return open_denoiser(artifact, device=asked.device, snapshot=snapshot).denoiser

    return soft_labels(
        load_guide(guide.path, opened, asked.device), latents,
        sigma=teacher.sigma or _best_sigma(guide), views=teacher.views, batch=asked.batch,
        seed=asked.seed, device=asked.device,
    )  # fmt: skip


def _of_classifier(latents: LabelledLatents, asked: Asked, *, share: float) -> PseudoLabelled:
    """Patches that cannot be read any more are not shown."""
    classifier = asked.inputs[CLASSIFIER]
    opened = open_classifier(classifier, asked.root, batch=asked.batch, device=asked.device)
    _require_classes(opened.classes, asked.labelled, classifier, what=CLASSIFIER)
    read = read_patches(PatchIndex.open(asked.inputs[PATCHES].path), latents.patch_N)
    kept = np.flatnonzero(np.isin(latents.patch_N, read.patches_N))
    return PseudoLabelled(latents.part(kept), opened.predict(read.pixels_NHWC), share)


def _store(inputs: Mapping[str, Artifact], labelled: LatentStore) -> LatentStore:
    """The latents without labels; where they are the labelled ones', divided as those are."""
    unlabelled = inputs[LATENTS]
    if unlabelled.reference == inputs["latents"].reference:
        return labelled
    return LatentStore.open(unlabelled.path)


def _best_sigma(guide: Artifact) -> float:
    """The middle of the bin in which the guide's log loss on slides held out is least.

    Raises:
        ConfigError: The guide was not calibrated.
    """
    metrics = json.loads((guide.path / "metrics.json").read_bytes())
    calibrated = guide.manifest.config["kind"]["calibration"] is not None
    bins = metrics.get("cross_fitted_by_sigma") or metrics["accuracy_by_sigma"]
    if not calibrated or not bins or "log_loss" not in bins[0]:
        raise ConfigError(
            f"{GUIDE}: {guide.reference} was not calibrated, so nothing says at which noise level"
            " it is best; name kind.pseudo_labels.teacher.sigma, or train it with calibration"
        )
    best = min(bins, key=lambda score: float(score["log_loss"]))
    return float(np.sqrt(best["sigma_low"] * best["sigma_high"]))


def _require_apart(unlabelled: LatentStore, labelled: LatentStore, source: Artifact) -> None:
    """Checks that no training slide or patient of the one is held out in the other."""
    shown = unlabelled.rows_of_split("train")
    kept = np.concatenate([labelled.rows_of_split("val"), labelled.rows_of_split("test")])
    for column in ("slide_id", "patient_id"):
        shared = sorted(_names(unlabelled, shown, column) & _names(labelled, kept, column))
        if shared:
            raise ConfigError(
                f"{LATENTS}: {source.reference} shows {column} {', '.join(shared[:3])} in split"
                " train, which the labelled latents keep for validation or test; split both alike"
            )


def _names(store: LatentStore, rows: npt.NDArray[np.int64], column: str) -> set[str]:
    return {str(name) for name in store.rows[column].take(rows).to_pylist() if name}
