"""The Reader of the encode stage, and the parts of a unit that it reads.

Parts are batches of patches along supertiles, so that neighbours are read together.
No torch here: there may be many readers, and their processes stay small.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.slides.patch_index import PatchIndex
from histodiff.data_prep.slides.reading import PatchReader
from histodiff.latents.plan import ShardUnit
from histodiff.runtime import PixelBlock
from histodiff.storage import StoragePath


@dataclass(frozen=True)
class EncodePart:
    """Some rows of a unit: their positions in it, and their patches."""

    positions: npt.NDArray[np.int64]
    patches: npt.NDArray[np.int64]


def parts_of(unit: ShardUnit, *, batch: int) -> Sequence[EncodePart]:
    """Parts of a unit, in reading order; pools take it as ``partial(parts_of, batch=...)``."""
    order = unit.reading_order
    pieces = (order[start : start + batch] for start in range(0, len(order), batch))
    return [EncodePart(positions, unit.patches[positions]) for positions in pieces]


class EncodeReader:
    """Reads the pixels of parts; opens the patch index in the process that reads.

    Args:
        patches: Folder of the PatchIndex.
    """

    def __init__(self, patches: StoragePath) -> None:
        self._reader = PatchReader(PatchIndex.open(patches))

    def read(self, part: EncodePart) -> PixelBlock:
        """Pixels of a part; ``positions`` and ``failures`` count in the unit."""
        block = self._reader.read([int(patch) for patch in part.patches])
        failures = {int(part.positions[row]): reason for row, reason in block.failures.items()}
        return PixelBlock(part.positions, block.pixels, failures)
