"""The copy check: every sample against every image that its networks saw.

Legend: G symmetries, N samples, M training images, D features.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.evaluation.quality import memorisation
from histodiff.evaluation.quality.memorisation import Closeness, closeness
from histodiff.selection.config import CopiesRule, Reason
from histodiff.selection.judgement import Judgement
from histodiff.workflows.quality.patches import PatchSource
from histodiff.workflows.select.config import name_of
from histodiff.workflows.select.held_out import drawn_patches, in_splits
from histodiff.workflows.select.lineage import Seen
from histodiff.workflows.select.pictures import Pictures

_log = logging.getLogger(__name__)
_FEWEST = 2


@dataclass(frozen=True)
class Compared:
    """What was found, and against what."""

    judgement: Judgement
    measured: Mapping[str, Any]


def copies(
    rule: CopiesRule,
    pictures: Pictures,
    seen: Seen,
    extractor: str,
    *,
    target: str,
    index: PatchIndex,
    seed: int,
) -> Compared:
    """Flags samples that are closer to a training image than held-out patches are.

    Args:
        rule: The criterion.
        pictures: Samples and held-out patches.
        seen: What the networks of the samples saw.
        extractor: Name of the opened extractor.
        target: Address of the PatchIndex that the labelled patches are of.
        index: That PatchIndex, divided as the config says.
        seed: Draws training images, where the rule takes part of them.

    Raises:
        ConfigError: There is nothing to compare with.
    """
    sources, others = training_images(
        seen, image_px=pictures.store.image_px, divided={target: index},
        limit=rule.training_images, seed=seed,
    )  # fmt: skip
    features = [pictures.of_source(extractor, source) for source in sources]
    if sum(map(len, features)) < _FEWEST:
        raise ConfigError(
            f"rule.rules {name_of(rule)}: the lineage of the samples has no training patches of"
            f" {pictures.store.image_px} px to compare with; take the rule out"
        )
    places = [(source, patch) for source in sources for patch in source.kept]
    training_MD = np.concatenate(features)
    samples_GND = pictures.of_samples(extractor, rule.symmetries)
    found = memorisation(
        samples_GND, training_MD, pictures.of_held_out(extractor, rule.symmetries),
        quantile=rule.quantile,
    )  # fmt: skip
    close = found.samples
    if rule.own_source == "excepted":
        row_of = {patch: row for row, (source, patch) in enumerate(places) if source.name == target}
        own_N = _own_rows(pictures, row_of)
        close = _beside_own(close, samples_GND, training_MD, own_N)
    copied_N = close.relative_N <= found.threshold
    judgement = Judgement(
        name_of(rule), Reason.COPY, ~copied_N, close.relative_N,
        _nearest_columns(name_of(rule), [places[row] for row in close.training_N]),
    )  # fmt: skip
    measured = {
        "threshold": found.threshold,
        "share": float(copied_N.mean()),
        "share_of_held_out": found.quantile,
        "num_held_out": found.num_held_out,
        "compared": {source.name: len(source.kept) for source in sources},
        "unreadable": sum(len(source.failed) for source in sources),
        "not_compared": {**dict.fromkeys(seen.elsewhere, "imported"), **others},
    }
    return Compared(judgement, measured)


def training_images(
    seen: Seen,
    *,
    image_px: int,
    divided: Mapping[str, PatchIndex],
    limit: int | None,
    seed: int,
) -> tuple[list[PatchSource], dict[str, str]]:
    """Training patches of the samples' size, and why other indexes are left out.

    Args:
        seen: What the networks of the samples saw.
        image_px: Side of the samples.
        divided: Indexes whose labels were dealt out by another division than the stored one.
        limit: Patches of each index at most; None takes all.
        seed: Draws them.
    """
    sources, others = [], {}
    for artifact in seen.patches:
        index, address = PatchIndex.open(artifact.path), str(artifact.reference)
        learned = in_splits(divided.get(address, index), ("train",))
        if address in seen.unlabelled:  # networks learned before it was divided anew
            learned |= in_splits(index, ("train",))
        if index.patch_px != image_px:
            others[address] = f"patches of {index.patch_px} px"
            continue
        rows = np.flatnonzero(learned)
        sources.append(drawn_patches(index, address, rows, limit=limit, seed=seed))
    for name, why in {**dict.fromkeys(seen.elsewhere, "imported"), **others}.items():
        _log.warning("copies: no sample is compared with what %s was trained on (%s)", name, why)
    return sources, others


def _own_rows(pictures: Pictures, row_of: Mapping[int, int]) -> npt.NDArray[np.int64]:
    """Training row of the patch that each sample varies; -1 where it is none."""
    rows = pictures.store.rows
    if "source_patch" not in rows.column_names:
        return np.full(len(pictures.store), -1, np.int64)
    sources = rows["source_patch"].to_pylist()
    return np.array([row_of.get(patch, -1) for patch in sources], np.int64)


def _beside_own(
    close: Closeness,
    samples_GND: npt.NDArray[np.floating],
    training_MD: npt.NDArray[np.floating],
    own_N: npt.NDArray[np.int64],
) -> Closeness:
    """The closeness to training images other than the one that a sample varies."""
    relative_N, distance_N = close.relative_N.copy(), close.distance_N.copy()
    training_N = close.training_N.copy()
    is_own_N = training_N == own_N
    for row in np.unique(own_N[is_own_N]):
        members = np.flatnonzero(is_own_N & (own_N == row))
        others = closeness(samples_GND[:, members], np.delete(training_MD, row, axis=0))
        relative_N[members], distance_N[members] = others.relative_N, others.distance_N
        training_N[members] = others.training_N + (others.training_N >= row)
    return Closeness(relative_N, distance_N, training_N)


def _nearest_columns(name: str, nearest: Sequence[tuple[PatchSource, int]]) -> dict[str, list[Any]]:
    """The nearest image of every sample: its PatchIndex, number and slide."""
    slides = {source.name: source.index.patches["slide_id"] for source, _ in nearest}
    return {
        f"{name}.patches": [source.name for source, _ in nearest],
        f"{name}.patch": [patch for _, patch in nearest],
        f"{name}.slide": [slides[source.name][patch].as_py() for source, patch in nearest],
    }
