"""Logistic regressions on the denoiser's features, chosen by labelled slides that are held out.

The features are taken once. For every candidate of layers and every penalty, regressions are fitted
without some slides and judge those; the penalty of each noise level, and then the layers, are those
of the least log loss. The regressions that are used are fitted on all labelled slides.
Legend: R draws, K classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from histodiff.config import Config
from histodiff.guidance.crossfit import Bins, folds
from histodiff.guidance.feature_table import FeatureTable
from histodiff.guidance.labelled import LabelledLatents
from histodiff.guidance.logistic import log_probabilities, regressions
from histodiff.guidance.noise import NoiseConfig
from histodiff.guidance.scores import bin_score
from histodiff.models.logistic_head import LogisticHead

Split = tuple[FeatureTable, FeatureTable]
"""What is fitted on, and what is judged."""


class LogisticHeadConfig(Config):
    """Regularised logistic regressions, one for each bin of noise levels."""

    type: Literal["logistic"]
    layers: tuple[tuple[str, ...], ...] = Field(min_length=1)
    """Candidates: sets of layers of the denoiser's network whose features are read together, such
    as `[[mid_block], [mid_block, up_blocks.0]]`, or `[[blocks.3]]` of a transformer."""
    penalties: tuple[float, ...] = (1.0e-4, 1.0e-3, 1.0e-2, 1.0e-1, 1.0)
    """Candidates: weights of the squared weights in the loss, for features of unit variance in
    all. Each noise level gets its own."""
    noise: NoiseConfig
    """Noise levels it is fitted on: candidates, of which those at which the held-out log loss
    stays at that of chance are recorded as useless."""
    components: int = Field(default=64, ge=1)
    """Principal components of the features that are kept at most."""
    folds: int = Field(default=4, ge=2)
    """Parts of the labelled slides (or patients) that are held out in turn for the choice."""
    draws: int = Field(default=8, ge=1)
    """Noisy draws of each latent at each noise level."""
    symmetries: bool = True
    """Each draw is turned or flipped at random."""
    batch: int = Field(default=64, ge=1)
    """Latents of one forward pass; rounding depends on it."""

    @property
    def every_layer(self) -> tuple[str, ...]:
        """Layers of all candidates, each once."""
        return tuple(dict.fromkeys(name for names in self.layers for name in names))


def fold_splits(
    table: FeatureTable, latents: LabelledLatents, *, count: int, seed: int
) -> list[Split]:
    """The labelled slides, each fold of them held out in turn.

    Raises:
        ConfigError: There are too few slides to hold any out.
    """
    held_out = folds(latents, count=count, seed=seed, field="kind.network")
    every = np.arange(len(latents))
    return [
        (table.part(latents.part(np.setdiff1d(every, rows))), table.part(latents.part(rows)))
        for rows in held_out
    ]


@dataclass(frozen=True)
class LogisticChoice:
    """Layers, and the penalty of each noise level."""

    layers: tuple[str, ...]
    penalties: tuple[float, ...]
    record: dict[str, Any]
    """For the metrics."""


def choose(
    config: LogisticHeadConfig,
    splits: Callable[[], Sequence[Split]],
    *,
    bins: Bins,
    num_classes: int,
) -> LogisticChoice:
    """The candidate with the least log loss on slides that were held out.

    A noise level at which nothing can be told counts as chance, not as worse.

    Args:
        config: Candidates.
        splits: Gives what is fitted on, and what is judged; asked if there is a choice.
        bins: Bins of noise levels.
        num_classes: K.
    """
    if len(config.layers) == len(config.penalties) == 1:
        penalties = config.penalties * len(bins)
        return LogisticChoice(config.layers[0], penalties, _record(config.layers[0], penalties))
    parts = splits()
    losses = {
        layers: _held_out_losses(config, parts, layers, bins, num_classes)
        for layers in config.layers
    }
    best = {
        layers: float(np.minimum(each.min(axis=1), math.log(num_classes)).mean())
        for layers, each in losses.items()
    }
    layers = min(best, key=lambda names: best[names])
    # of equals the stronger, which comes last
    strongest_first = sorted(range(len(config.penalties)), key=lambda n: -config.penalties[n])
    penalties = tuple(
        config.penalties[min(strongest_first, key=lambda n, row=row: float(row[n]))]  # type: ignore[misc]
        for row in losses[layers]
    )
    record = _record(layers, penalties)
    record["log_loss_of_layers"] = {"+".join(names): loss for names, loss in best.items()}
    record["log_loss_by_sigma"] = losses[layers].min(axis=1).tolist()
    return LogisticChoice(layers, penalties, record)


def fitted_head(
    choice: LogisticChoice,
    config: LogisticHeadConfig,
    table: FeatureTable,
    *,
    bins: Bins,
    num_classes: int,
) -> LogisticHead:
    """The regressions of a choice, fitted on all of a table."""
    width = table.of_layers(0, choice.layers).shape[1]
    head = LogisticHead(
        layers=choice.layers, sigmas=[math.sqrt(low * high) for low, high in bins],
        num_features=width, num_classes=num_classes,
    )  # fmt: skip
    for level, penalty in enumerate(choice.penalties):
        (found,) = regressions(
            table.of_layers(level, choice.layers), table.target_R, num_classes=num_classes,
            penalties=[penalty], components=config.components,
        )  # fmt: skip
        head.take(
            level, mean_D=torch.from_numpy(found.mean_D),
            weight_KD=torch.from_numpy(found.weight_KD), bias_K=torch.from_numpy(found.bias_K),
        )  # fmt: skip
    return head.eval()


def _held_out_losses(
    config: LogisticHeadConfig,
    splits: Sequence[Split],
    layers: tuple[str, ...],
    bins: Bins,
    num_classes: int,
) -> npt.NDArray[np.float64]:
    """Log loss of every noise level (rows) and penalty (columns)."""
    losses = np.zeros((len(bins), len(config.penalties)))
    for level, each in enumerate(bins):
        said: list[list[torch.Tensor]] = [[] for _ in config.penalties]
        truth = []
        for seen, unseen in splits:
            fitted = regressions(
                seen.of_layers(level, layers), seen.target_R, num_classes=num_classes,
                penalties=config.penalties, components=config.components,
            )  # fmt: skip
            truth.append(torch.from_numpy(unseen.target_R))
            features = unseen.of_layers(level, layers)
            for place, found in enumerate(fitted):
                said[place].append(torch.from_numpy(log_probabilities(found, features)))
        target = torch.cat(truth)
        losses[level] = [
            bin_score(torch.cat(parts), target, bin_of_sigma=each).log_loss for parts in said
        ]
    return losses


def _record(layers: tuple[str, ...], penalties: Sequence[float]) -> dict[str, Any]:
    return {"layers": list(layers), "penalties_by_sigma": list(penalties)}
