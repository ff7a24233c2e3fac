"""What ``tile`` says when nothing is left: no patch at all, or no group in a split."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow.compute as pc

from histodiff.artifacts import Reference
from histodiff.data_prep.index.splits import SplitConfig
from histodiff.data_prep.sources.inputs import MET_HERE, FoundTrap
from histodiff.data_prep.stages.tile import TileRecord
from histodiff.errors import SkipReason

_FIXES = {
    SkipReason.NO_TISSUE: "; if there is tissue, lower tissue.min_fraction or the rules of quality",
    SkipReason.TOO_COARSE: "; set mpp to the scale that they have",
    SkipReason.UNREADABLE: "; fetch the files again and compare their sizes",
}
"""What a person does where the details of a reason do not say it."""


def nothing_left(output: Reference, records: Iterable[TileRecord]) -> str:
    """Why there is no patch, in one line: the reason that most share, an example and the fix."""
    issues = [issue for record in records for issue in record.issues]
    if not issues:
        return f"{output}: no patch is left, and nothing says why; look at the sources"
    reason, count = Counter(issue.reason for issue in issues).most_common(1)[0]
    first = next(issue for issue in issues if issue.reason == reason)
    fix = "" if ";" in first.detail else _FIXES.get(SkipReason(reason), "")
    others = len(issues) - count
    rest = f" ({others:,} for other reasons)" if others else ""
    return (
        f"{output}: no patch is left of {len(issues):,} slides and images: {count:,} are {reason}"
        f"{rest}, such as {first.unit}: {first.detail}{fix}."
        " Nothing was kept: correct the config or the files, and run the same command again"
    )


def empty_splits(config: SplitConfig, slides: Any, split_of: Mapping[str, str]) -> list[FoundTrap]:
    """A trap for each split that was asked for and got nothing.

    Args:
        config: The division.
        slides: Table of slides.
        split_of: Split of every slide with patches.
    """
    used = slides.filter(pc.greater(slides["num_patches"], 0))
    count = len(pc.unique(used[config.group_column]))
    return [
        FoundTrap(
            data=f"split.{name}",
            what=(
                f"{fraction:g} of the {config.group_by}s were asked for, and none is in it: there"
                f" are {count}, and of a class with fewer than 3 all may be in train. Give more, "
                f"or set split.{name}: 0."
            ),
            source=MET_HERE,
        )
        for name, fraction in (("val", config.val), ("test", config.test))
        if fraction and name not in split_of.values()
    ]
