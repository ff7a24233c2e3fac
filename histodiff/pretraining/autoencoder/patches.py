"""Patches in memory: those to measure on, and each rank's share of those to train on.

The place of a crop in the batch decides which patches it may show: place ``p`` of a batch of ``B``
draws from every ``B``-th patch, beginning with the ``p``-th. So a rank, which has certain places of
every batch, holds their patches and no others, and the ranks together hold each patch once. Legend:
N patches, H height, W width, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import UnitIssue
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.errors import ConfigError
from histodiff.runtime import generator_for
from histodiff.telemetry import progress

NO_LABEL = -1
_READ_ROWS = 64

Split = Literal["train", "val"]


@dataclass(frozen=True)
class LoadedPatches:
    """Patches in memory, and those that could not be read."""

    pixels_NHWC: npt.NDArray[np.uint8]
    failed: tuple[UnitIssue, ...]


@dataclass(frozen=True)
class PlacedPatches:
    """The patches of some places of the batch."""

    pixels_NHWC: npt.NDArray[np.uint8]
    label_N: npt.NDArray[np.int64]
    """Number of each one's label; ``NO_LABEL`` where there is none that may be used."""
    by_place: Mapping[int, npt.NDArray[np.int64]]
    """Positions in ``pixels_NHWC`` that a place draws from."""
    failed: tuple[UnitIssue, ...]
    """Patches that could not be read."""


@dataclass(frozen=True)
class _Drawn:
    """Patches of several indexes, one behind the other."""

    source_N: npt.NDArray[np.int64]
    """Number of the index."""
    row_N: npt.NDArray[np.int64]
    """Number of the patch in it."""


@dataclass(frozen=True)
class _Read:
    """What was read: pixels of those that could be, and which those are."""

    pixels_NHWC: npt.NDArray[np.uint8]
    kept_N: npt.NDArray[np.int64]
    failed: tuple[UnitIssue, ...]


def load_patches(
    indexes: Sequence[PatchIndex], *, split: Split, count: int, seed: int
) -> LoadedPatches:
    """At most ``count`` patches of a split, drawn at random over all indexes, in reading order.

    Raises:
        ConfigError: The indexes disagree about ``patch_px``, or the split has no readable patch.
    """
    drawn = _drawn(indexes, split=split, count=count, seed=seed)
    read = _read(indexes, drawn, np.arange(len(drawn.row_N)), split=split)
    if len(read.kept_N) == 0:
        raise ConfigError(_nothing(split))
    return LoadedPatches(read.pixels_NHWC, read.failed)


def load_places(
    indexes: Sequence[PatchIndex],
    *,
    places: range,
    batch: int,
    count: int,
    label_of: Mapping[int, int],
    seed: int,
) -> PlacedPatches:
    """Of at most ``count`` training patches, those that the ``places`` of a batch draw from.

    Args:
        indexes: Where the patches are.
        places: Those of this rank.
        batch: Places in all.
        count: At most so many patches are used.
        label_of: Number of the label by the patch's number in the first index.
        seed: Which patches.

    Raises:
        ConfigError: As of ``load_patches``; or a place has no readable patch.
    """
    drawn = _drawn(indexes, split="train", count=count, seed=seed)
    total = len(drawn.row_N)
    if total == 0:
        raise ConfigError(_nothing("train"))
    wanted = {place: np.arange(place % total, total, batch) for place in places}
    read = _read(indexes, drawn, np.unique(np.concatenate([*wanted.values()])), split="train")
    by_place = {
        place: np.flatnonzero(np.isin(read.kept_N, members)) for place, members in wanted.items()
    }
    for place, positions in by_place.items():
        if len(positions) == 0:
            raise ConfigError(
                f"patches: none of the {len(wanted[place])} training patches of place {place} of"
                " the batch can be read; tile anew, or give a smaller train.batch"
            )
    kept = zip(drawn.source_N[read.kept_N], drawn.row_N[read.kept_N], strict=True)
    labels = [NO_LABEL if source else label_of.get(int(row), NO_LABEL) for source, row in kept]
    label_N = np.array(labels, dtype=np.int64)
    return PlacedPatches(read.pixels_NHWC, label_N, by_place, read.failed)


def _nothing(split: Split) -> str:
    return (
        f"patches: split '{split}' has no readable patch; tile more slides, or give `tile`"
        f" other split fractions"
    )


def _drawn(indexes: Sequence[PatchIndex], *, split: Split, count: int, seed: int) -> _Drawn:
    """At most ``count`` patches of the split, in reading order."""
    candidates = [
        np.flatnonzero(np.asarray(index.patches["split"].to_pylist()) == split) for index in indexes
    ]
    sources = np.repeat(np.arange(len(indexes)), [len(numbers) for numbers in candidates])
    rows = np.concatenate(candidates).astype(np.int64)
    generator = generator_for(seed, "autoencoder patches", split)
    chosen = np.sort(generator.permutation(len(rows))[:count])
    return _Drawn(sources[chosen], rows[chosen])


def _read(
    indexes: Sequence[PatchIndex], drawn: _Drawn, wanted_N: npt.NDArray[np.int64], *, split: Split
) -> _Read:
    """The patches at the positions ``wanted_N`` of ``drawn``."""
    side = _side(indexes)
    pixels_NHWC = np.empty((len(wanted_N), side, side, 3), dtype=np.uint8)
    kept, failed, filled = [], list[UnitIssue](), 0
    with progress(f"read {split} patches", total=len(wanted_N), unit="patches") as bar:
        for source, index in enumerate(indexes):
            reader = PatchReader(index)
            mine = wanted_N[drawn.source_N[wanted_N] == source]
            for part in (mine[at : at + _READ_ROWS] for at in range(0, len(mine), _READ_ROWS)):
                block = reader.read([int(row) for row in drawn.row_N[part]])
                good = [place for place in range(len(part)) if place not in block.failures]
                pixels_NHWC[filled : filled + len(good)] = block.pixels[good]
                filled += len(good)
                kept.append(part[good])
                failed += _issues(index, drawn.row_N[part], block.failures)
                bar.advance(len(part))
    kept_N = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
    return _Read(pixels_NHWC[:filled], kept_N, tuple(failed))


def _side(indexes: Sequence[PatchIndex]) -> int:
    sides = {index.patch_px for index in indexes}
    if len(sides) != 1:
        raise ConfigError(
            f"patches: these have different patch_px ({sorted(sides)}); tile them alike"
        )
    return sides.pop()


def _issues(
    index: PatchIndex, numbers: npt.NDArray[np.int64], failures: dict[int, str]
) -> list[UnitIssue]:
    issues = []
    for place, text in failures.items():
        row = index.patches.slice(int(numbers[place]), 1).to_pylist()[0]
        unit = row["path"] or f"{row['slide_id']}@{row['x']},{row['y']}"
        reason, _, detail = text.partition(": ")
        issues.append(UnitIssue(unit=unit, reason=reason, detail=detail))
    return issues
