"""What was found of duplicates, in numbers, for people and for JSON: within and across sets."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from histodiff.data_prep.duplicates.descriptors import Bytes, num_keypoints
from histodiff.data_prep.duplicates.duplicates import duplicate_groups, slides_with_shared_tissue


@dataclass(frozen=True)
class SourcePairs:
    """Near-duplicate pairs between two sets, or inside one."""

    first: str
    second: str
    num_pairs: int


@dataclass(frozen=True)
class DuplicateReport:
    """Counts of duplicates among the patches of one or more sets."""

    num_patches: int
    num_without_blobs: int
    """Patches that show nothing to be recognised by (glass, fat, blur); never near duplicates."""
    num_exact_copies: int
    """Patches whose bytes an earlier patch has already."""
    num_near_pairs: int
    num_groups: int
    """Groups of at least two patches, exact and near together."""
    num_in_groups: int
    largest_group: int
    num_pairs_across_slides: int
    num_slides_sharing_tissue: int
    sources: tuple[SourcePairs, ...]
    """Near pairs by the sets of their patches, sorted."""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return asdict(self)


def duplicate_report(
    pairs: Any,
    *,
    descriptors: Bytes,
    exact: Sequence[Sequence[int]],
    slide_ids: Sequence[str],
    sources: Sequence[str],
) -> DuplicateReport:
    """Counts what was found.

    Args:
        pairs: From `near_duplicate_pairs`.
        descriptors: Of all patches.
        exact: From `exact_duplicates`.
        slide_ids: Slide of every patch.
        sources: Name of the set of every patch.
    """
    groups = duplicate_groups(len(slide_ids), pairs, exact=exact)
    sizes = np.bincount(groups, minlength=1)
    first, second = (pairs[name].to_pylist() for name in ("first", "second"))
    across = sum(
        slide_ids[one] != slide_ids[other] for one, other in zip(first, second, strict=True)
    )
    return DuplicateReport(
        num_patches=len(slide_ids),
        num_without_blobs=int((num_keypoints(descriptors) == 0).sum()),
        num_exact_copies=sum(len(group) - 1 for group in exact),
        num_near_pairs=pairs.num_rows,
        num_groups=int((sizes > 1).sum()),
        num_in_groups=int(sizes[sizes > 1].sum()),
        largest_group=int(sizes.max()),
        num_pairs_across_slides=across,
        num_slides_sharing_tissue=len(slides_with_shared_tissue(slide_ids, groups)),
        sources=_by_source(first, second, sources),
    )


def _by_source(
    first: Sequence[int], second: Sequence[int], sources: Sequence[str]
) -> tuple[SourcePairs, ...]:
    ends = zip(first, second, strict=True)
    counts = Counter(tuple(sorted((sources[one], sources[other]))) for one, other in ends)
    return tuple(SourcePairs(names[0], names[-1], count) for names, count in sorted(counts.items()))
