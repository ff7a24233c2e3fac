"""From labelled latents to a guide: its candidates, its training, its temperatures, its scores.

Whatever is to be chosen is chosen, and whatever is to be told of a guide is measured, on slides
that nothing was learned from: labelled ones that its siblings were trained without, so that no
label beyond the budget is looked at, or those of the validation split.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from histodiff.guidance.adapter import AdapterGuideKind, learn_adapter
from histodiff.guidance.calibration import calibrated_scores, temperatures_of
from histodiff.guidance.classifier_guide import ClassifierGuide
from histodiff.guidance.crossfit import Bins, Judged, Judging, cross_fit, folds, judged_apart
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
from histodiff.guidance.logistic_head import (
    LogisticHeadConfig,
    Split,
    choose,
    fitted_head,
    fold_splits,
)
from histodiff.guidance.scores import BinScore, bin_score
from histodiff.storage import StoragePath
from histodiff.training import CHECKPOINTS, MetricsRow

SCRATCH = "scratch"
"""Folder, in that of a guide, of what its cross-fitted siblings leave."""
_FOLDS, _DRAWS = 4, 4
"""Of a choice without calibration: folds, and noisy draws of each latent in each bin."""

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


@dataclass(frozen=True)
class _Classroom:
    """All that candidates are compared by."""

    kind: GuideKind
    lesson: Lesson
    latents: LabelledLatents
    validation: LabelledLatents | None
    """Judged in place of labelled slides that are held out; None where those are."""
    bins: Bins
    path: StoragePath


def train_guide(
    lesson: Lesson,
    latents: LabelledLatents,
    *,
    kind: GuideKind,
    num_bins: int,
    path: StoragePath,
    validation: LabelledLatents | None = None,
) -> TrainedGuide:
    """A guide of a kind, trained on labelled latents; the same call again resumes.

    Its temperatures, where the kind has any, come from guides that are trained without some slides,
    or from validation slides.

    Args:
        lesson: What is trained for, and by.
        latents: With labels.
        kind: Which guide, and how it is trained.
        num_bins: Bins of noise levels that have a temperature each.
        path: Folder of the guide; checkpoints lie below it.
        validation: Latents of other slides, with labels; needed where ``kind.calibration`` asks for
            them, and not looked at otherwise.

    Raises:
        ConfigError: There are too few labelled slides for a choice or for temperatures, or the
            denoiser lacks a layer.
    """
    config = kind.calibration
    by_validation = config is not None and config.slides == "validation"
    assert validation is not None or not by_validation
    room = _Classroom(
        kind, lesson, latents, validation if by_validation else None,
        evaluation_bins(kind, lesson.preconditioning, num_bins=num_bins), path,
    )  # fmt: skip
    learner = _learner(room)
    taught = learner.learn(lesson, latents, path / CHECKPOINTS, "guide")
    if config is None:
        return TrainedGuide(taught.guide, taught.rows, [], learner.chosen)
    judged = _judged(room, learner, taught)
    temperatures = temperatures_of(judged)
    scores = [] if by_validation else calibrated_scores(judged, temperatures)
    guide = replace(taught.guide, temperatures=temperatures)
    return TrainedGuide(guide, taught.rows, scores, learner.chosen)


def _learner(room: _Classroom) -> _Learner:
    match room.kind:
        case FeatureGuideKind() if isinstance(room.kind.network, LogisticHeadConfig):
            return _regressions(room, room.kind.network)
        case FeatureGuideKind():
            return _Learner(partial(learn_perceptron, room.kind))
        case LatentGuideKind():
            return _of_best_length(room, room.kind)
        case AdapterGuideKind():
            return _Learner(partial(learn_adapter, room.kind))
        case CleanGuideKind():
            return _Learner(partial(learn_clean, room.kind))


def _regressions(room: _Classroom, config: LogisticHeadConfig) -> _Learner:
    """Fits regressions on features that are taken once."""
    lesson, latents, num_classes = room.lesson, room.latents, len(room.lesson.classes)
    taken = partial(
        feature_table, lesson.features(config.every_layer), bins=room.bins, batch=config.batch,
        seed=lesson.seed, device=lesson.device, path=room.path / SCRATCH,
    )  # fmt: skip
    table = taken(latents, draws=config.draws, symmetries=config.symmetries)

    def splits() -> list[Split]:
        if room.validation is None:
            return fold_splits(table, latents, count=config.folds, seed=lesson.seed)
        judged = taken(room.validation, draws=1, symmetries=False, label="validation-features")
        return [(table, judged)]

    choice = choose(config, splits, bins=room.bins, num_classes=num_classes)

    def learn(own: Lesson, part: LabelledLatents, folder: StoragePath, run: str) -> Taught:
        del folder, run
        head = fitted_head(
            choice, config, table.part(part), bins=room.bins, num_classes=num_classes
        ).to(own.device)
        logits = head_logits(head, own.features(choice.layers))
        return Taught(ClassifierGuide(head, logits, own.classes), [])

    return _Learner(learn, choice.record)


def _of_best_length(room: _Classroom, kind: LatentGuideKind) -> _Learner:
    """Trains for as long as guides got better on slides that they did not see."""
    learners = {
        share: _Learner(partial(learn_latent, kind.of_length(share)), label=f"length-{share:g}")
        for share in kind.lengths
    }
    if len(learners) == 1:
        return next(iter(learners.values()))
    losses = {share: _log_loss(_judged(room, learners[share])) for share in kind.lengths}
    best = min(losses, key=lambda share: (losses[share], share))
    chosen = {
        "length": best,
        "log_loss_of_lengths": {f"{share:g}": loss for share, loss in losses.items()},
    }
    return replace(learners[best], chosen=chosen)


def _log_loss(judged: Judged) -> float:
    """Mean over bins of noise levels."""
    return float(
        np.mean(
            [
                bin_score(log_p_MK, judged.target_M, bin_of_sigma=each).log_loss
                for each, log_p_MK in zip(judged.bins, judged.log_p_MK, strict=True)
            ]
        )
    )


def _judged(room: _Classroom, learner: _Learner, taught: Taught | None = None) -> Judged:
    """What is said of slides that were not seen: by siblings, or by the guide of all the latents.

    Args:
        room: What is learned from, and judged.
        learner: How a guide learns.
        taught: The guide of all the latents, if it is there already.
    """
    config, lesson, latents = room.kind.calibration, room.lesson, room.latents
    judging = Judging(
        room.bins, _DRAWS if config is None else config.draws, room.kind.judged_batch,
        lesson.seed, lesson.device,
    )  # fmt: skip
    count = _FOLDS if config is None else config.folds

    def sibling(part: LabelledLatents, number: int) -> TrainedKind:
        own = room.path / SCRATCH / f"{learner.label}-{number}"
        unseen = lesson.without(set(latents.group_N) - set(part.group_N))
        return learner.learn(unseen, part, own, f"guide without part {number + 1}").guide

    if room.validation is None:
        return cross_fit(
            sibling, latents, judging, held_out=folds(latents, count=count, seed=lesson.seed)
        )
    whole = taught or learner.learn(
        lesson, latents, room.path / SCRATCH / f"{learner.label}-whole", "guide"
    )
    return judged_apart(whole.guide, room.validation, judging, parts=count)
