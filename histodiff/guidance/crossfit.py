"""Judgements of labelled slides by guides that never saw them.

The labelled slides (or patients) are dealt into folds; a guide is trained without each of them and
judges it, at every bin of noise levels. Temperatures, choices and reported scores come from these
judgements. Labels beyond the budget are not looked at. Legend: N latents, M judgements, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histodiff.data_prep.index.folds import dealt_folds
from histodiff.diffusion import Guide
from histodiff.errors import ConfigError
from histodiff.guidance.labelled import LabelledLatents, bin_sigma, noisy_batch

Bins = Sequence[tuple[float, float]]
"""Bins of noise levels, ascending."""


@dataclass(frozen=True)
class Judging:
    """How latents are judged."""

    bins: Bins
    draws: int
    """Noisy draws of each latent in each bin."""
    batch: int
    """Latents of one forward pass."""
    seed: int
    """Decides the noise."""
    device: str
    """Where guides are."""


@dataclass(frozen=True)
class Judged:
    """What was said of latents that were held out, in every bin of noise levels."""

    bins: tuple[tuple[float, float], ...]
    log_p_MK: tuple[Tensor, ...]
    """Of each bin: ``log p`` of every class."""
    target_M: Tensor
    fold_M: Tensor
    """Number of the fold that a judged latent belongs to."""


def folds(
    latents: LabelledLatents, *, count: int, seed: int, field: str = "kind.calibration"
) -> list[npt.NDArray[np.int64]]:
    """Rows that each fold holds out: whole groups, dealt out by their main class.

    Args:
        latents: Labelled latents.
        count: Folds, as far as every class is in as many groups.
        seed: Decides which group is in which fold.
        field: Config field that wants them, for the error.

    Raises:
        ConfigError: Without some fold a class has no latent left.
    """
    fold_N = dealt_folds(
        latents.group_N, latents.target_N, count=count, seed=seed, purpose="guide-folds"
    )
    if fold_N is None:
        raise ConfigError(
            f"{field}: nothing can be held out with fewer than two labelled slides of every"
            " class; raise budget.count, or set kind.calibration to null and name one"
            " candidate where there is a choice"
        )
    return [np.flatnonzero(fold_N == fold) for fold in range(fold_N.max() + 1)]


@torch.no_grad()
def cross_fit(
    train: Callable[[LabelledLatents, int], Guide],
    latents: LabelledLatents,
    judging: Judging,
    *,
    held_out: Sequence[npt.NDArray[np.int64]],
) -> Judged:
    """Every labelled latent, judged by a guide that was trained without its fold.

    Args:
        train: Trains a guide on part of them; also told the number of the fold.
        latents: All labelled latents.
        judging: How they are judged.
        held_out: Rows that each fold holds out.
    """
    said: list[list[Tensor]] = [[] for _ in judging.bins]
    truth, fold = [], []
    for number, rows in enumerate(held_out):
        left = np.setdiff1d(np.arange(len(latents)), rows)
        with torch.enable_grad():
            guide = train(latents.part(left), number)
        part = latents.part(rows)
        for place, found in enumerate(_in_every_bin(guide, part, judging, f"calibrate-{number}")):
            said[place].append(found)
        truth.append(torch.from_numpy(part.target_N).repeat(judging.draws))
        fold.append(torch.full((len(rows) * judging.draws,), number))
    return Judged(
        tuple(judging.bins),
        tuple(torch.cat(each) for each in said),
        torch.cat(truth),
        torch.cat(fold),
    )


@torch.no_grad()
def judged_apart(guide: Guide, latents: LabelledLatents, judging: Judging, *, parts: int) -> Judged:
    """Latents of other slides than the guide learned from, in ``parts`` of whole slides."""
    names = sorted(set(latents.group_N))
    part_N = torch.tensor([names.index(name) % parts for name in latents.group_N])
    return Judged(
        tuple(judging.bins),
        tuple(_in_every_bin(guide, latents, judging, "calibrate-validation")),
        torch.from_numpy(latents.target_N).repeat(judging.draws),
        part_N.repeat(judging.draws),
    )


def _in_every_bin(
    guide: Guide, latents: LabelledLatents, judging: Judging, purpose: str
) -> list[Tensor]:
    return [
        judgements(
            guide, latents, bin_sigma(low, high), draws=judging.draws, batch=judging.batch,
            seed=judging.seed, purpose=f"{purpose}-{place}", device=judging.device,
        )
        for place, (low, high) in enumerate(judging.bins)
    ]  # fmt: skip


@torch.no_grad()
def judgements(
    guide: Guide,
    latents: LabelledLatents,
    sigma_of: Callable[[Tensor], Tensor],
    *,
    draws: int,
    batch: int,
    seed: int,
    purpose: str,
    device: str,
    symmetries: bool = False,
) -> Tensor:
    """``log p`` (draws x N, K) of noisy draws of every latent, in turns of all, on the CPU."""
    rows = list(range(len(latents))) * draws
    parts = []
    for start in range(0, len(rows), batch):
        indices = range(start, min(start + batch, len(rows)))
        noisy = noisy_batch(
            latents, [rows[index] for index in indices], sigma_of=sigma_of, seed=seed,
            purpose=purpose, indices=indices, symmetries=symmetries, device=device,
        )  # fmt: skip
        parts.append(guide.log_probabilities(noisy.noisy_BCHW, noisy.sigma_B).float().cpu())
    return torch.cat(parts)
