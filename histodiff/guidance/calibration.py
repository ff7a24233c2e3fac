"""Temperatures by noise level, so that a guide is no surer than it is right.

A classifier of a few labelled slides is sure of what it has seen, and its gradient is as large as
it is sure. It is trained anew without some slides, judges those, and the temperature of each bin of
noise levels is the one under which the labels that were held out are likeliest (Guo et al. 2017,
arXiv 1706.04599), every class counted alike. It is never below one: few slides are no reason to be
surer. In a bin where nothing can be told, it grows until all classes are equally likely. Of three
folds or more each is left out once more and the highest of the temperatures is taken, so that no
single fold decides that a guide may be sure. Legend: B batch, M judgements, K classes.
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from histodiff.config import Config
from histodiff.guidance.crossfit import Judged
from histodiff.guidance.scores import BinScore, bin_score, class_weights
from histodiff.storage import StoragePath, write_bytes

TEMPERATURES = "temperatures.json"
_HIGHEST = 1e4
"""Of a temperature: logits of 100 then differ by a hundredth."""
_SEARCH_STEPS = 60
_GOLDEN = (math.sqrt(5) - 1) / 2
_FEWEST_FOLDS = 3
"""From so many folds on, one of them may be left out."""


class CalibrationConfig(Config):
    """How temperatures are found, on labelled slides that a classifier did not see."""

    slides: Literal["labelled", "validation"] = "labelled"
    """Which: the `labelled` ones of the budget, each part held out in turn, or those of the split
    `validation`, on which studies choose. Where the few patients of a budget have one class each,
    what is left without one of them knows a class less, and only validation slides can tell. What
    a kind chooses among candidates is chosen on the same slides."""
    folds: int = Field(default=4, ge=2)
    """Parts of the labelled slides (or patients) that are held out in turn, as far as there are;
    of validation slides, parts of which each is left out once."""
    draws: int = Field(default=4, ge=1)
    """Noisy draws of each latent in each bin."""


@dataclass(frozen=True)
class Temperatures:
    """A temperature per noise level: linear in log sigma between nodes, level beyond them."""

    sigmas: tuple[float, ...]
    """Ascending."""
    values: tuple[float, ...]

    def at(self, sigma_B: Tensor) -> Tensor:
        """Temperatures (B) of noise levels."""
        log_sigma = np.log(sigma_B.detach().double().cpu().numpy().clip(self.sigmas[0], None))
        log_value = np.interp(log_sigma, np.log(self.sigmas), np.log(self.values))
        return torch.from_numpy(np.exp(log_value)).to(sigma_B.device, torch.float32)


def temperatures_of(judged: Judged) -> Temperatures:
    """A temperature for each bin of noise levels, at its geometric middle."""
    return Temperatures(
        tuple(math.sqrt(low * high) for low, high in judged.bins),
        tuple(
            _careful_temperature(log_p_MK, judged.target_M, judged.fold_M)
            for log_p_MK in judged.log_p_MK
        ),
    )


def calibrated_scores(judged: Judged, temperatures: Temperatures) -> list[BinScore]:
    """Scores of judgements by bin of noise levels, after division by the temperatures."""
    return [
        bin_score(
            (log_p_MK.double() / value).log_softmax(dim=1), judged.target_M, bin_of_sigma=each
        )
        for each, log_p_MK, value in zip(
            judged.bins, judged.log_p_MK, temperatures.values, strict=True
        )
    ]


def best_temperature(log_p_MK: Tensor, target_M: Tensor) -> float:
    """The temperature of at least one with the least log loss, by golden-section search.

    The log loss is convex in one over the temperature. Every class counts alike.
    """
    scores_MK = log_p_MK.double()
    weight_M = torch.from_numpy(class_weights(target_M.numpy()))

    def loss(inverse: float) -> float:
        true_M = (inverse * scores_MK).log_softmax(dim=1).gather(1, target_M[:, None]).squeeze(1)
        return -float(weight_M @ true_M)

    low, high = 1 / _HIGHEST, 1.0
    for _ in range(_SEARCH_STEPS):
        width = _GOLDEN * (high - low)
        if loss(high - width) < loss(low + width):
            high = low + width
        else:
            low = high - width
    return 1.0 if loss(1.0) <= loss(0.5 * (low + high)) else 2 / (low + high)


def save_temperatures(path: StoragePath, temperatures: Temperatures) -> None:
    """Writes them into the folder of a guide."""
    text = json.dumps(asdict(temperatures), indent=2) + "\n"
    write_bytes(path / TEMPERATURES, text.encode())


def stored_temperatures(path: StoragePath) -> Temperatures | None:
    """Those in the folder of a guide; None where it has none."""
    try:
        record = json.loads((path / TEMPERATURES).read_bytes())
    except FileNotFoundError:
        return None
    return Temperatures(tuple(record["sigmas"]), tuple(record["values"]))


def _careful_temperature(log_p_MK: Tensor, target_M: Tensor, fold_M: Tensor) -> float:
    """The highest of those without one fold, and of that with all."""
    found = [best_temperature(log_p_MK, target_M)]
    numbers = sorted(set(fold_M.tolist()))
    if len(numbers) >= _FEWEST_FOLDS:
        for number in numbers:
            left = fold_M != number
            found.append(best_temperature(log_p_MK[left], target_M[left]))
    return max(found)
