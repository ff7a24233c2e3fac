"""Real patches as blocks of pixels, and what is known of each: who it is of, its class.

A patch that cannot be read is left out of the features and of what is known, and named.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact, UnitIssue
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.errors import ConfigError, SkipReason
from histodiff.runtime import generator_for

_BLOCK = 256


@dataclass
class PatchSource:
    """Some patches of an index, read once; ``kept`` grows as they are read."""

    index: PatchIndex
    name: str
    """Address of the index."""
    rows: npt.NDArray[np.int64]
    """Numbers of the patches that are asked for."""
    kept: list[int] = field(default_factory=list)
    """Numbers of those that could be read, in the order of the blocks."""
    failed: list[UnitIssue] = field(default_factory=list)
    """Those that could not."""

    def blocks(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Pixels uint8 ``(n, H, W, 3)``."""
        reader = PatchReader(self.index)
        try:
            for start in range(0, len(self.rows), _BLOCK):
                part = [int(row) for row in self.rows[start : start + _BLOCK]]
                block = reader.read(part)
                good = [place for place in range(len(part)) if place not in block.failures]
                self.kept += [part[place] for place in good]
                self.failed += [
                    UnitIssue(
                        unit=f"{self.name}#{part[place]}",
                        reason=SkipReason.UNREADABLE,
                        detail=detail,
                    )
                    for place, detail in block.failures.items()
                ]
                yield block.pixels[good]
        finally:
            reader.close()

    def column(self, name: str) -> list[str | None]:
        """A column of the patches that could be read."""
        found: list[str | None] = self.index.patches[name].take(self.kept).to_pylist()
        return found

    def groups(self) -> tuple[str, ...]:
        """The patient of each patch, or its slide where no patient is known."""
        pairs = zip(self.column("patient_id"), self.column("slide_id"), strict=True)
        return tuple(f"patient {who}" if who else f"slide {slide}" for who, slide in pairs)

    def labels(self) -> tuple[str, ...] | None:
        """The class of each patch; None where a patch has none."""
        found = self.column("label")
        return None if None in found else tuple(str(label) for label in found)

    def pixels(self, row: int) -> npt.NDArray[np.uint8]:
        """One patch, uint8 ``(H, W, 3)``."""
        reader = PatchReader(self.index)
        try:
            pixels_HWC: npt.NDArray[np.uint8] = reader.read([row]).pixels[0]
            return pixels_HWC
        finally:
            reader.close()


def patch_source(
    artifact: Artifact,
    *,
    splits: Sequence[str],
    limit: int | None,
    seed: int,
    owner: str,
) -> PatchSource:
    """At most ``limit`` patches of some splits, drawn by ``seed``, in the order of the index.

    Raises:
        ConfigError: There are none.
    """
    index = PatchIndex.open(artifact.path)
    wanted = np.isin(np.asarray(index.patches["split"].to_pylist(), dtype=object), list(splits))
    rows = np.flatnonzero(wanted)
    if not len(rows):
        raise ConfigError(
            f"{owner} {artifact.reference} has no patches in split {', '.join(splits)}; tile with"
            " such a split, or name another index"
        )
    if limit is not None and len(rows) > limit:
        rng = generator_for(seed, "quality", "patches", str(artifact.reference))
        rows = np.sort(rng.choice(rows, size=limit, replace=False))
    return PatchSource(index, str(artifact.reference), rows)
