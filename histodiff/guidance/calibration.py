"""Temperatures by noise level, so that a guide is no surer than it is right.

A classifier of a few labelled slides is sure of what it has seen, and its gradient is as large as
it is sure. It is trained anew without some slides, judges those, and the temperature of each bin of
noise levels is the one under which the labels that were held out are likeliest (Guo et al. 2017,
arXiv 1706.04599). It is never below one: few slides are no reason to be surer. In a bin where
nothing can be told, it grows until all classes are equally likely. Legend: N latents, B batch,
K classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from histodiff.config import Config
from histodiff.diffusion import Guide
from histodiff.errors import ConfigError
from histodiff.guidance.labelled import LabelledLatents, bin_sigma, noisy_batch
from histodiff.runtime import generator_for

_HIGHEST = 1e4
"""Of a temperature: logits of 100 then differ by a hundredth."""
_SEARCH_STEPS = 60
_GOLDEN = (math.sqrt(5) - 1) / 2


class CalibrationConfig(Config):
    """How temperatures are found, on labelled slides that a classifier did not see."""

    folds: int = Field(default=4, ge=2)
    """Parts of the labelled slides (or patients) that are held out in turn, as far as there are."""
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


def folds(latents: LabelledLatents, *, count: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """Rows that each fold holds out: whole groups, dealt out by their main class.

    Raises:
        ConfigError: Without some fold a class has no latent left.
    """
    groups = np.asarray(latents.group_N)
    names = sorted(set(latents.group_N))
    main = {name: int(np.bincount(latents.target_N[groups == name]).argmax()) for name in names}
    shuffled = generator_for(seed, "guide-folds").permutation(len(names))
    dealt = sorted((names[place] for place in shuffled), key=lambda name: main[name])
    fewest = min(list(main.values()).count(label) for label in set(latents.target_N.tolist()))
    used = min(count, max(fewest, 2))
    held_out = [
        np.flatnonzero(np.isin(groups, dealt[number::used])).astype(np.int64)
        for number in range(used)
    ]
    for rows in held_out:
        left = np.setdiff1d(np.arange(len(latents)), rows)
        if not len(rows) or set(latents.target_N[left]) != set(latents.target_N):
            raise ConfigError(
                "kind.calibration: a guide can be calibrated only with two labelled slides of every"
                " class; raise budget.count, or set kind.calibration to null"
            )
    return held_out


@torch.no_grad()
def cross_fitted_temperatures(
    train: Callable[[LabelledLatents, int], Guide],
    latents: LabelledLatents,
    *,
    config: CalibrationConfig,
    bins: Sequence[tuple[float, float]],
    batch: int,
    seed: int,
    device: str,
) -> Temperatures:
    """Temperatures of a guide that is trained on all of ``latents``.

    Args:
        train: Trains a guide on part of them; also told the number of the fold.
        latents: All labelled latents.
        config: Folds and draws.
        bins: Bins of noise levels, ascending; a temperature each, at their geometric middle.
        batch: Latents of one forward pass.
        seed: Decides folds and noise.
        device: Where the guides are.

    Raises:
        ConfigError: There are too few slides.
    """
    judged: list[list[Tensor]] = [[] for _ in bins]
    truth: list[Tensor] = []
    for number, rows in enumerate(folds(latents, count=config.folds, seed=seed)):
        left = np.setdiff1d(np.arange(len(latents)), rows)
        with torch.enable_grad():
            guide = train(latents.part(left), number)
        held_out = latents.part(rows)
        for place, (low, high) in enumerate(bins):
            judged[place].append(
                _judgements(
                    guide, held_out, bin_sigma(low, high), draws=config.draws, batch=batch,
                    seed=seed, purpose=f"calibrate-{number}-{place}", device=device,
                )
            )  # fmt: skip
        truth.append(torch.from_numpy(held_out.target_N).repeat(config.draws))
    target_N = torch.cat(truth)
    return Temperatures(
        tuple(math.sqrt(low * high) for low, high in bins),
        tuple(best_temperature(torch.cat(each), target_N) for each in judged),
    )


def best_temperature(log_probability_NK: Tensor, target_N: Tensor) -> float:
    """The temperature of at least one with the least log loss, by golden-section search.

    The log loss is convex in one over the temperature.
    """
    scores_NK = log_probability_NK.double()

    def loss(inverse: float) -> float:
        return float(functional.cross_entropy(inverse * scores_NK, target_N))

    low, high = 1 / _HIGHEST, 1.0
    for _ in range(_SEARCH_STEPS):
        width = _GOLDEN * (high - low)
        if loss(high - width) < loss(low + width):
            high = low + width
        else:
            low = high - width
    return 1.0 if loss(1.0) <= loss(0.5 * (low + high)) else 2 / (low + high)


def _judgements(
    guide: Guide,
    held_out: LabelledLatents,
    sigma_of: Callable[[Tensor], Tensor],
    *,
    draws: int,
    batch: int,
    seed: int,
    purpose: str,
    device: str,
) -> Tensor:
    """``log p`` (draws x N, K) of noisy draws of every latent, in turns of all."""
    rows = list(range(len(held_out))) * draws
    parts = []
    for start in range(0, len(rows), batch):
        indices = range(start, min(start + batch, len(rows)))
        noisy = noisy_batch(
            held_out, [rows[index] for index in indices], sigma_of=sigma_of, seed=seed,
            purpose=purpose, indices=indices, device=device,
        )  # fmt: skip
        parts.append(guide.log_probabilities(noisy.noisy_BCHW, noisy.sigma_B).cpu())
    return torch.cat(parts)
