"""From labelled latents to a guide: its candidates, its training, its temperatures, its scores.

Whatever is to be chosen is chosen, and whatever is to be told of a guide is measured, on labelled
slides that its siblings were trained without; labels beyond the budget are not looked at.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from histodiff.guidance.adapter import AdapterGuideKind, learn_adapter
from histodiff.guidance.calibration import calibrated_scores, temperatures_of
from histodiff.guidance.classifier_guide import ClassifierGuide
from histodiff.guidance.crossfit import Bins, Judged, cross_fit, folds
from histodiff.guidance.feature_head import FeatureGuideKind, head_logits, learn_perceptron
from histodiff.guidance.feature_table import feature_table
from histodiff.guidance.kinds import GuideKind, TrainedKind, evaluation_bins
from histodiff.guidance.labelled import LabelledLatents
from histodiff.guidance.latent_classifier import (
    CleanGuideKind,
    LatentGuideKind,
    learn_clean,
    learn_latent,
)
from histodiff.guidance.lesson import Lesson, Taught
from histodiff.guidance.logistic_head import LogisticHeadConfig, choose, fitted_head
from histodiff.guidance.scores import BinScore, bin_score
from histodiff.storage import StoragePath
from histodiff.training import CHECKPOINTS, MetricsRow

SCRATCH = "scratch"
"""Folder, in that of a guide, of what its cross-fitted siblings leave."""
_DRAWS = 4
"""Noisy draws of each latent in each bin, where a choice is made without calibration."""

Learn = Callable[[Lesson, LabelledLatents, StoragePath, str], Taught]
"""Trains on latents, with checkpoints in a folder, under the name of a run; resumes."""


@dataclass(frozen=True)
class TrainedGuide:
    """A guide, in evaluation mode, and what its training has told."""

    guide: TrainedKind
    rows: list[MetricsRow]
    """Losses; none of a guide that is fitted at once."""
    cross_fitted: list[BinScore]
    """Scores on labelled slides that were held out, by bin of noise levels; none without
    calibration."""
    chosen: dict[str, Any]
    """Candidates, and what was chosen; empty where there was no choice."""


@dataclass(frozen=True)
class _Learner:
    learn: Learn
    chosen: dict[str, Any] = field(default_factory=dict)
    label: str = "fold"
    """First part of the names of the folders of siblings."""


def train_guide(
    lesson: Lesson, latents: LabelledLatents, *, kind: GuideKind, num_bins: int, path: StoragePath
) -> TrainedGuide:
    """A guide of a kind, trained on labelled latents; the same call again resumes.

    Its temperatures, where the kind has any, come from guides that are trained without some slides.

    Args:
        lesson: What is trained for, and by.
        latents: With labels.
        kind: Which guide, and how it is trained.
        num_bins: Bins of noise levels that have a temperature each.
        path: Folder of the guide; checkpoints lie below it.

    Raises:
        ConfigError: There are too few labelled slides for a choice or for temperatures, or the
            denoiser lacks a layer.
    """
    bins = evaluation_bins(kind, lesson.preconditioning, num_bins=num_bins)
    learner = _learner(kind, lesson, latents, bins, path)
    taught = learner.learn(lesson, latents, path / CHECKPOINTS, "guide")
    if kind.calibration is None:
        return TrainedGuide(taught.guide, taught.rows, [], learner.chosen)
    judged = _judged(learner, kind, lesson, latents, bins, path)
    temperatures = temperatures_of(judged)
    return TrainedGuide(
        replace(taught.guide, temperatures=temperatures), taught.rows,
        calibrated_scores(judged, temperatures), learner.chosen,
    )  # fmt: skip


def _learner(
    kind: GuideKind, lesson: Lesson, latents: LabelledLatents, bins: Bins, path: StoragePath
) -> _Learner:
    match kind:
        case FeatureGuideKind() if isinstance(kind.network, LogisticHeadConfig):
            return _regressions(kind.network, lesson, latents, bins, path)
        case FeatureGuideKind():
            return _Learner(partial(learn_perceptron, kind))
        case LatentGuideKind():
            return _of_best_length(kind, lesson, latents, bins, path)
        case AdapterGuideKind():
            return _Learner(partial(learn_adapter, kind))
        case CleanGuideKind():
            return _Learner(partial(learn_clean, kind))


def _regressions(
    config: LogisticHeadConfig,
    lesson: Lesson,
    latents: LabelledLatents,
    bins: Bins,
    path: StoragePath,
) -> _Learner:
    """Fits regressions on features that are taken once."""
    num_classes = len(lesson.classes)
    table = feature_table(
        lesson.features(config.every_layer), latents, bins=bins, draws=config.draws,
        symmetries=config.symmetries, batch=config.batch, seed=lesson.seed, device=lesson.device,
        path=path / SCRATCH,
    )  # fmt: skip
    choice = choose(config, table, latents, bins=bins, num_classes=num_classes, seed=lesson.seed)

    def learn(own: Lesson, part: LabelledLatents, folder: StoragePath, run: str) -> Taught:
        del folder, run
        head = fitted_head(choice, config, table.part(part), bins=bins, num_classes=num_classes)
        head = head.to(own.device)
        logits = head_logits(head, own.features(choice.layers))
        return Taught(ClassifierGuide(head, logits, own.classes), [])

    return _Learner(learn, choice.record)


def _of_best_length(
    kind: LatentGuideKind, lesson: Lesson, latents: LabelledLatents, bins: Bins, path: StoragePath
) -> _Learner:
    """Trains for as long as siblings got better on slides that they did not see."""
    learners = {
        share: _Learner(partial(learn_latent, kind.of_length(share)), label=f"length-{share:g}")
        for share in kind.lengths
    }
    if len(learners) == 1:
        return next(iter(learners.values()))
    losses = {}
    for share, learner in learners.items():
        judged = _judged(learner, kind, lesson, latents, bins, path)
        losses[share] = float(
            np.mean(
                [
                    bin_score(log_p_MK, judged.target_M, bin_of_sigma=each).log_loss
                    for each, log_p_MK in zip(judged.bins, judged.log_p_MK, strict=True)
                ]
            )
        )
    best = min(losses, key=lambda share: (losses[share], share))
    chosen = {
        "length": best,
        "log_loss_of_lengths": {f"{share:g}": loss for share, loss in losses.items()},
    }
    return replace(learners[best], chosen=chosen)


def _judged(
    learner: _Learner,
    kind: GuideKind,
    lesson: Lesson,
    latents: LabelledLatents,
    bins: Bins,
    path: StoragePath,
) -> Judged:
    """What siblings, each trained without some of the latents, say of those."""
    config = kind.calibration
    held_out = folds(latents, count=4 if config is None else config.folds, seed=lesson.seed)

    def train(part: LabelledLatents, number: int) -> TrainedKind:
        own = path / SCRATCH / f"{learner.label}-{number}"
        unseen = lesson.without(set(latents.group_N) - set(part.group_N))
        return learner.learn(unseen, part, own, f"guide without part {number + 1}").guide

    return cross_fit(
        train, latents, held_out=held_out, bins=bins,
        draws=_DRAWS if config is None else config.draws, batch=kind.judged_batch,
        seed=lesson.seed, device=lesson.device,
    )  # fmt: skip
