"""Real patches that stand for perfect samples, and what an autoencoder makes of them.

Perfect samples are new tissue with the right label. Real patches of slides that no label was spent
on are just that, wherever true labels of them are known. They join a training in the order of a
selection: round the classes, so that any beginning is as balanced as they allow. Where all labels
are within the budget, these are cross-fitted: a part of them stands for samples, the rest is
learned from, each part in turn. Legend of suffixes: N, M patches, H height, W width, C channels.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from histodiff.classification.images import Pixels, num_added
from histodiff.data_prep.index.folds import dealt_folds
from histodiff.errors import ConfigError
from histodiff.models.autoencoder import Autoencoder
from histodiff.runtime import generator_for
from histodiff.telemetry import progress

Numbers = npt.NDArray[np.int64]


class StandIn(StrEnum):
    """Which real patches stand for perfect samples."""

    OTHER_SLIDES = "other_slides"
    """Training patches of slides and patients without a label in the budget."""
    OTHER_PATCHES = "other_patches"
    """Training patches beyond the budget, of whichever slides."""
    CROSS_FITTED = "cross_fitted"
    """Each part of the labelled patches in turn, while the rest is learned from."""


class PosteriorView(StrEnum):
    """What of the posterior of a patch is decoded."""

    MEAN = "mean"
    """Its mean."""
    DRAW = "draw"
    """One draw from it, as a denoiser sees that is trained on draws."""


@dataclass(frozen=True)
class Fold:
    """What one comparison learns from: numbers of patches."""

    labelled_N: Numbers
    added_M: Numbers
    """Stand for samples, in the order in which they would be taken."""
    num_wanted: int
    """Patches that were to be added; ``added_M`` has fewer where there are no more."""


@dataclass(frozen=True)
class StandIns:
    """Which patches stand for samples: in one fold, or several where labels are cross-fitted."""

    kind: StandIn
    folds: tuple[Fold, ...]


def stand_ins(
    table: Any,
    labelled_N: Numbers,
    *,
    kind: StandIn | None,
    ratio: float,
    num_folds: int,
    seed: int,
) -> StandIns:
    """The patches that stand for samples, beside the labelled ones.

    Args:
        table: Patches of an index: slide_id, patient_id, label and split.
        labelled_N: Numbers of those whose labels the budget holds.
        kind: Which patches; None takes the first kind that has patches of every labelled class.
        ratio: Patches added, as a multiple of the number of labelled ones.
        num_folds: Parts of the labelled patches, where these are cross-fitted.
        seed: Draws among those that may be taken.

    Raises:
        ConfigError: There are none of that kind for some class.
    """
    labels = np.asarray(table["label"].to_pylist(), dtype=object)
    if kind is not StandIn.CROSS_FITTED:
        classes = set(labels[labelled_N])
        for candidate in (kind,) if kind else (StandIn.OTHER_SLIDES, StandIn.OTHER_PATCHES):
            beyond = _beyond(table, labelled_N, labels, candidate)
            if set(labels[beyond]) >= classes:
                wanted = num_added(ratio, len(labelled_N))
                added = _in_training_order(beyond, labels, seed=seed)[:wanted]
                return StandIns(candidate, (Fold(labelled_N, added, wanted),))
        if kind is not None:
            raise ConfigError(
                f"stand_in: {kind}: not every class has true labels there, beyond the budget; lower"
                f" the budget, or set stand_in to {StandIn.CROSS_FITTED}"
            )
    parts = cross_fitted_parts(
        table, labelled_N, num_folds=num_folds, seed=seed,
        why="no true labels lie beyond it, and",
    )  # fmt: skip
    folds = []
    for part in parts:
        rest = labelled_N[~np.isin(labelled_N, part)]
        wanted = num_added(ratio, len(rest))
        folds.append(Fold(rest, _in_training_order(part, labels, seed=seed)[:wanted], wanted))
    return StandIns(StandIn.CROSS_FITTED, tuple(folds))


def reconstructed(
    pixels_NHWC: Pixels,
    autoencoder: Autoencoder,
    *,
    patches_N: Numbers,
    view: PosteriorView,
    batch: int,
    seed: int,
    device: str,
) -> Pixels:
    """The images as samples behind the autoencoder could be at best: encoded and decoded.

    Args:
        pixels_NHWC: The images, uint8.
        autoencoder: What they pass through.
        patches_N: Their patch numbers: the draw from a posterior is a function of seed and number.
        view: What of the posterior is decoded.
        batch: Images per pass.
        seed: Of the draws.
        device: Where the autoencoder is.
    """
    decoded = [np.empty((0, *pixels_NHWC.shape[1:]), np.uint8)]
    with progress("reconstruct", total=len(pixels_NHWC), unit="images") as bar:
        for start in range(0, len(pixels_NHWC), batch):
            part_BHWC = torch.from_numpy(pixels_NHWC[start : start + batch])
            moments = autoencoder.encode(part_BHWC.permute(0, 3, 1, 2).to(device))
            latents_BCHW = moments.mean
            if view is PosteriorView.DRAW:
                shape = tuple(latents_BCHW.shape[1:])
                noise_BCHW = np.stack([
                    generator_for(seed, "stand-in-posterior", int(patch)).standard_normal(shape)
                    for patch in patches_N[start : start + batch]
                ])  # fmt: skip
                latents_BCHW = latents_BCHW + moments.std * torch.from_numpy(noise_BCHW).to(
                    latents_BCHW
                )
            decoded.append(autoencoder.decode(latents_BCHW).permute(0, 2, 3, 1).cpu().numpy())
            bar.advance(len(part_BHWC))
    return np.concatenate(decoded)


def _beyond(
    table: Any, labelled_N: Numbers, labels: npt.NDArray[np.object_], kind: StandIn
) -> Numbers:
    """Training patches with a true label of a labelled class that the budget does not hold."""
    splits = np.asarray(table["split"].to_pylist(), dtype=object)
    free = (splits == "train") & np.isin(labels, sorted(set(labels[labelled_N])))
    free[labelled_N] = False
    if kind is StandIn.OTHER_SLIDES:
        for column in ("slide_id", "patient_id"):
            owners = np.asarray(table[column].to_pylist(), dtype=object)
            spent = {owner for owner in owners[labelled_N] if owner is not None}
            free &= np.array([owner not in spent for owner in owners], bool)
    return np.flatnonzero(free).astype(np.int64)


def _in_training_order(
    patches_N: Numbers, labels: npt.NDArray[np.object_], *, seed: int
) -> Numbers:
    """The patches drawn by seed, round the classes."""
    ranked: list[tuple[int, str, int]] = []
    for label in sorted(set(labels[patches_N])):
        members = patches_N[labels[patches_N] == label]
        order = generator_for(seed, "stand-in", label).permutation(len(members))
        ranked += [(rank, label, int(patch)) for rank, patch in enumerate(members[order])]
    return np.array([patch for _, _, patch in sorted(ranked)], np.int64)


def cross_fitted_parts(
    table: Any, labelled_N: Numbers, *, num_folds: int, seed: int, why: str
) -> list[Numbers]:
    """The labelled patches in parts that share no patient (no slide, where none is known).

    Args:
        table: Patches of an index: slide_id, patient_id and label.
        labelled_N: Numbers of the labelled ones.
        num_folds: How many parts.
        seed: Deals them out.
        why: Begins the error, before "cross-fitting it".

    Raises:
        ConfigError: A part, or what it leaves, lacks a class.
    """
    slides, patients, labels = (
        table[key].take(labelled_N).to_pylist() for key in ("slide_id", "patient_id", "label")
    )
    groups = [patient or slide for patient, slide in zip(patients, slides, strict=True)]
    _, target_N = np.unique(labels, return_inverse=True)
    fold_N = dealt_folds(
        groups, target_N.astype(np.int64), count=num_folds, seed=seed, purpose="stand-in",
        complete=True,
    )  # fmt: skip
    if fold_N is None:
        raise ConfigError(
            f"budget: {why} cross-fitting it in {num_folds} parts leaves one without some class:"
            f" label {num_folds} slides of each class or more, or raise the budget"
        )
    return [np.sort(labelled_N[fold_N == fold]) for fold in range(num_folds)]
