"""Calibrated confidence of models that never saw the slide of the image they judge.

Labelled slides are dealt into folds, and a model learns from all but each. What the models say of
the labels held out fits one temperature (``guidance.calibration``), and says how much they know.
Legend: F folds, M labelled images, N samples, K classes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from histodiff.classification.images import Images
from histodiff.classification.learning_set import JoinMixing, hard_targets, learning_set
from histodiff.classification.training import predicted_probability, trained_classifier
from histodiff.data_prep.index.folds import dealt_folds
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.features.logistic import fitted_logistic
from histodiff.guidance.calibration import best_temperature
from histodiff.runtime import derived_seed
from histodiff.selection.config import Reason
from histodiff.selection.judgement import Judgement
from histodiff.storage import StoragePath
from histodiff.workflows.select.config import ConfidenceRule, LinearModel, NetworkModel, name_of
from histodiff.workflows.select.pictures import Pictures

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
_TINY = 1e-12
_NO_FOLD = -1


@dataclass(frozen=True)
class Confidence:
    """The judgement, and what the models know."""

    judgement: Judgement
    measured: Mapping[str, Any]


@dataclass(frozen=True)
class FoldModel:
    """What the model of one fold says, as probabilities."""

    labelled_MK: Floats
    samples_NK: Floats


Judge = Callable[[Numbers, int], FoldModel]
"""Learns from the given labelled images, as the model of a fold, and judges all images."""


def confidence(
    rule: ConfidenceRule,
    pictures: Pictures,
    index: PatchIndex,
    *,
    extractor: str | None,
    checkpoints: StoragePath,
    seed: int,
) -> Confidence:
    """The probability of the class asked for, of every sample.

    Args:
        rule: The criterion.
        pictures: Samples and labelled patches.
        index: The PatchIndex that the labelled patches are of.
        extractor: Name of the opened extractor of a linear model; None for a network.
        checkpoints: Folder of the models that are trained.
        seed: Decides folds and models.

    Raises:
        ConfigError: There are too few labelled slides.
    """
    labelled = pictures.labelled
    target_M = labelled.images.target_N
    groups = _groups(index, labelled.patches_N)
    fold_M = dealt_folds(groups, target_M, count=rule.folds, seed=seed, purpose="selection-folds")
    if fold_M is None:
        raise ConfigError(
            f"rule.rules {name_of(rule)}: judging images by models that never saw their slide takes"
            " two labelled slides (patients) of every class; raise the budget, or leave the"
            " rule out"
        )
    judge = _judge(rule, pictures, extractor, checkpoints, seed)
    models = [judge(np.flatnonzero(fold_M != fold), fold) for fold in range(fold_M.max() + 1)]
    held_out_MK = np.stack([models[fold].labelled_MK[m] for m, fold in enumerate(fold_M)])
    temperature = best_temperature(
        torch.from_numpy(np.log(np.maximum(held_out_MK, _TINY))), torch.from_numpy(target_M)
    )
    calibrated_FNK = np.stack([_tempered(model.samples_NK, temperature) for model in models])
    fold_N = _fold_of_samples(pictures, index, dict(zip(groups, fold_M.tolist(), strict=True)))
    every = np.arange(len(fold_N))
    probability_NK = np.where(
        (fold_N == _NO_FOLD)[:, None], calibrated_FNK.mean(axis=0), calibrated_FNK[fold_N, every]
    )
    own_N = np.array([pictures.store.classes.index(label) for label in pictures.store.labels])
    score_N = probability_NK[every, own_N]
    judgement = Judgement(
        name_of(rule), Reason.UNSURE,
        (score_N >= rule.min_probability) & _surest(score_N, own_N, share=rule.best_share), score_N,
        {f"fold.{name_of(rule)}": [None if f == _NO_FOLD else f for f in fold_N.tolist()]},
    )  # fmt: skip
    known = _measured(_tempered(held_out_MK, temperature), target_M)
    measured = {"folds": len(models), "temperature": temperature, **known}
    return Confidence(judgement, measured)


def _surest(
    score_N: Floats, class_N: npt.NDArray[np.integer[Any]], *, share: float
) -> npt.NDArray[np.bool_]:
    """Which images are among the best of their class; of equal ones, the first."""
    chosen_N = np.zeros(len(score_N), bool)
    for label in np.unique(class_N):
        members = np.flatnonzero(class_N == label)
        order = members[np.argsort(-score_N[members], kind="stable")]
        chosen_N[order[: math.ceil(share * len(members))]] = True
    return chosen_N


def _groups(index: PatchIndex, patches_M: Numbers) -> list[str]:
    """The patient of each patch, or its slide where no patient is known."""
    rows = index.patches.select(["patient_id", "slide_id"]).take(patches_M).to_pylist()
    return [str(row["patient_id"] or row["slide_id"]) for row in rows]


def _fold_of_samples(pictures: Pictures, index: PatchIndex, fold_of: Mapping[str, int]) -> Numbers:
    """The fold that holds out what a sample varies; -1 of samples that vary nothing labelled."""
    rows = pictures.store.rows
    if "source_patch" not in rows.column_names:
        return np.full(len(pictures.store), _NO_FOLD, np.int64)
    sources = np.asarray(rows["source_patch"], np.int64)
    return np.array([fold_of.get(name, _NO_FOLD) for name in _groups(index, sources)], np.int64)


def _judge(
    rule: ConfidenceRule,
    pictures: Pictures,
    extractor: str | None,
    checkpoints: StoragePath,
    seed: int,
) -> Judge:
    images, num_classes = pictures.labelled.images, len(pictures.store.classes)

    def linear(rows: Numbers, fold: int) -> FoldModel:
        del fold  # a convex problem has no seed
        assert extractor is not None
        assert isinstance(rule.model, LinearModel)
        features_MD = pictures.of_labelled(extractor)
        target_MK = hard_targets(images.target_N, num_classes=num_classes)
        weight_M = _class_weights(images.target_N[rows])
        model = fitted_logistic(
            features_MD[rows], target_MK[rows] * weight_M[:, None],
            inverse_penalty=rule.model.inverse_penalty,
        )  # fmt: skip
        return FoldModel(
            model.probability(features_MD), model.probability(pictures.of_samples(extractor)[0])
        )

    def network(rows: Numbers, fold: int) -> FoldModel:
        assert isinstance(rule.model, NetworkModel)
        left = Images(images.pixels_NHWC[rows], images.target_N[rows])
        trained = trained_classifier(
            learning_set(left, None, num_classes=num_classes, mixing=JoinMixing(type="join")),
            backbone=rule.model.backbone, training=rule.model.training, num_classes=num_classes,
            seed=derived_seed(seed, "confidence", fold), device=pictures.device,
            checkpoints=checkpoints / f"fold-{fold}", run=f"{name_of(rule)} fold {fold}",
        )  # fmt: skip

        def said(pixels_NHWC: npt.NDArray[np.uint8]) -> Floats:
            return predicted_probability(
                trained.classifier, pixels_NHWC, batch=pictures.batch, device=pictures.device
            )

        samples_NK = np.concatenate([said(block) for block in pictures.sample_blocks()])
        return FoldModel(said(images.pixels_NHWC), samples_NK)

    return linear if isinstance(rule.model, LinearModel) else network


def _class_weights(target_M: Numbers) -> Floats:
    """Weights under which every class counts alike, 1 in the mean."""
    classes, counts = np.unique(target_M, return_counts=True)
    weight_of = dict(zip(classes.tolist(), (len(target_M) / len(classes) / counts), strict=True))
    return np.array([weight_of[target] for target in target_M.tolist()])


def _tempered(probability_NK: Floats, temperature: float) -> Floats:
    """Probabilities whose logarithms are divided by the temperature."""
    logits_NK = np.log(np.maximum(probability_NK, _TINY)) / temperature
    powers_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    tempered: Floats = powers_NK / powers_NK.sum(axis=1, keepdims=True)
    return tempered


def _measured(probability_MK: Floats, target_M: Numbers) -> dict[str, Any]:
    """How much the models know, by the labels that they did not see."""
    own_M = probability_MK[np.arange(len(target_M)), target_M]
    right_M = probability_MK.argmax(axis=1) == target_M
    recalls = [float(right_M[target_M == label].mean()) for label in np.unique(target_M)]
    return {
        "held_out_images": len(target_M),
        "held_out_balanced_accuracy": float(np.mean(recalls)),
        "held_out_log_loss": float(-np.log(own_M).mean()),
        "log_loss_of_chance": float(np.log(probability_MK.shape[1])),
    }
