"""Near duplicates among patches (or slide thumbnails): pairs that show the same tissue.

Two steps. Every patch gets a few candidates that share rare kinds of blobs with it; then each pair
is registered, and accepted only where pixels agree: nothing is a duplicate because of its colours
or its texture alone. Partners of partners are compared as well, which finds what the candidates
missed. Exact copies are a matter of content hashes and are kept apart.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from histodiff.config import Config
from histodiff.data_prep.duplicates.candidates import candidate_pairs
from histodiff.data_prep.duplicates.descriptors import Bytes, unpacked
from histodiff.data_prep.duplicates.keypoints import density_detail, working_picture
from histodiff.data_prep.duplicates.registration import overlap, registered
from histodiff.data_prep.index.grouping import chained, connected_groups, links_of_equals
from histodiff.telemetry import progress

PAIRS_SCHEMA = pa.schema(
    [
        ("first", pa.int64()),
        ("second", pa.int64()),
        ("score", pa.float32()),
        ("overlap", pa.float32()),
        ("zoom", pa.float32()),
    ]
)
"""``first < second`` are numbers of patches; ``score`` is the correlation of what both show.

``overlap`` is the shared part of the one that shows less, ``zoom`` how much larger the second is.
"""

_CACHED_PATCHES = 2048

ReadPixels = Callable[[int], npt.NDArray[np.uint8]]


class DuplicateConfig(Config):
    """What counts as a near duplicate, and how hard to look."""

    min_score: float = Field(default=0.4, gt=0, le=1)
    """Least correlation of detail where two patches overlap: nearly all real pairs have more than
    0.6, registered strangers less than 0.25."""
    min_overlap: float = Field(default=0.4, gt=0, le=1)
    """Least shared part of the patch that shows less tissue. The default takes in patches that were
    cut at half steps; below 0.2 few blobs are shared and pairs are missed."""
    min_inliers: int = Field(default=4, ge=3)
    """Least number of blobs that agree on how one patch lies in the other, to compare pixels."""
    neighbours: int = Field(default=20, ge=1)
    """Candidates per patch; more finds more, and takes longer in proportion."""
    max_words: int = Field(default=16384, ge=16)
    """Kinds of blobs that are told apart when candidates are looked for."""
    expansions: int = Field(default=2, ge=0)
    """How often partners of partners are compared too."""


THUMBNAILS = DuplicateConfig(min_score=0.85)
"""For thumbnails of slides: serial sections of one block look alike as a whole (up to 0.8)."""


def near_duplicate_pairs(
    descriptors: Bytes, *, config: DuplicateConfig, read_pixels: ReadPixels
) -> Any:
    """Pairs of patches that show the same tissue, whatever way it was turned, flipped or zoomed.

    Args:
        descriptors: uint8 ``(N, DESCRIPTOR_BYTES)`` from `describe`; may be memory-mapped.
        config: Thresholds.
        read_pixels: Pixels of a patch by its number; asked for only where blobs agree.

    Returns:
        Table of `PAIRS_SCHEMA`, sorted by ``first`` and ``second``.
    """
    compare = _Comparison(descriptors, config, read_pixels)
    candidates = candidate_pairs(
        descriptors, neighbours=config.neighbours, max_words=config.max_words
    )
    pairs: list[tuple[int, int]] = [(int(first), int(second)) for first, second in candidates]
    found: list[dict[str, Any]] = []
    seen: set[tuple[int, int]] = set()
    for _ in range(config.expansions + 1):
        if not pairs:
            break
        seen.update(pairs)
        found += compare(pairs)
        pairs = _partners_of_partners(found, seen)
    found.sort(key=lambda row: (row["first"], row["second"]))
    return pa.Table.from_pylist(found, schema=PAIRS_SCHEMA)


def exact_duplicates(hashes: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Numbers of items with equal content hashes, for every hash that occurs more than once."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for number, digest in enumerate(hashes):
        places[digest].append(number)
    return tuple(tuple(group) for group in places.values() if len(group) > 1)


def duplicate_groups(
    num: int, pairs: Any, *, exact: Sequence[Sequence[int]] = ()
) -> npt.NDArray[np.int64]:
    """Group of each of ``num`` patches: patches that chains of duplicates connect share one.

    Args:
        num: How many patches there are.
        pairs: From `near_duplicate_pairs`.
        exact: From `exact_duplicates`; they join groups too.

    Returns:
        ``(num,)``, numbered in the order of the groups' first members.
    """
    near = zip(pairs["first"].to_pylist(), pairs["second"].to_pylist(), strict=True)
    return connected_groups(num, [*near, *chained(exact)])


def slides_with_shared_tissue(
    slide_ids: Sequence[str], groups: Sequence[int] | npt.NDArray[np.int64]
) -> dict[str, str]:
    """Slides with patches of one group, as ``slide_id -> first of those slides``.

    Args:
        slide_ids: Slide of every patch.
        groups: Group of every patch, from `duplicate_groups`.

    Returns:
        Only slides that share tissue with another one; the ``same`` of `assign_splits`.
    """
    links = [*links_of_equals(slide_ids), *links_of_equals([int(group) for group in groups])]
    slides_of: defaultdict[int, set[str]] = defaultdict(set)
    for slide, group in zip(slide_ids, connected_groups(len(slide_ids), links), strict=True):
        slides_of[int(group)].add(slide)
    shared = [slides for slides in slides_of.values() if len(slides) > 1]
    return {slide: min(slides) for slides in shared for slide in sorted(slides)}


class _Comparison:
    """Compares pairs; keeps what it has read of the last patches."""

    def __init__(self, descriptors: Bytes, config: DuplicateConfig, read: ReadPixels) -> None:
        self._config = config
        self._blobs = lru_cache(_CACHED_PATCHES)(lambda number: unpacked(descriptors[number]))
        self._detail = lru_cache(_CACHED_PATCHES)(
            lambda number: density_detail(working_picture(read(number)))
        )

    def __call__(self, pairs: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        found = []
        with progress("compare patches", total=len(pairs), unit="pairs") as bar:
            for first, second in pairs:
                row = self._row(first, second)
                if row is not None:
                    found.append(row)
                bar.advance()
        return found

    def _row(self, first: int, second: int) -> dict[str, Any] | None:
        by = registered(self._blobs(first), self._blobs(second))
        if by is None or by.num_inliers < self._config.min_inliers:
            return None
        shared = overlap(self._detail(first), self._detail(second), by)
        if (
            shared.correlation < self._config.min_score
            or shared.fraction < self._config.min_overlap
        ):
            return None
        return {
            "first": first,
            "second": second,
            "score": shared.correlation,
            "overlap": shared.fraction,
            "zoom": by.zoom,
        }


def _partners_of_partners(
    found: Iterable[Mapping[str, Any]], seen: set[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Pairs that share a partner and were not compared."""
    partners: defaultdict[int, set[int]] = defaultdict(set)
    for row in found:
        partners[row["first"]].add(row["second"])
        partners[row["second"]].add(row["first"])
    pairs = {
        (one, other)
        for near in partners.values()
        for one in near
        for other in near
        if one < other and (one, other) not in seen
    }
    return sorted(pairs)
