"""The Reader of the encode stage, and the parts of a unit that it reads.

A part is some whole supertiles, so that the bytes of neighbours are fetched together and once. The
encoder cuts what it gets into batches anew: how a unit is cut into parts changes no byte.
No torch here: there may be many readers, and their processes stay small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from histodiff.data_prep.index.patch_index import IndexedSlides
from histodiff.data_prep.index.reading import RowReader, read_so_far
from histodiff.latents.arrow import arrow_numbers, arrow_stream
from histodiff.latents.plan import ShardUnit
from histodiff.runtime import PixelBlock
from histodiff.storage import StoragePath

MIN_PART_ROWS = 64
"""Patches of a part with which enough requests run at the same time."""
MAX_PART_ROWS = 256
"""Most patches of a part; a larger supertile is cut."""


@dataclass(frozen=True)
class EncodePart:
    """Some rows of a unit: their positions in it, and what to read for each."""

    positions: npt.NDArray[np.int64]
    rows: pa.Buffer
    """What reading takes of the table of patches, as an Arrow stream: no reader needs the whole
    table, and for a table Ray would import pandas in every process, which takes it a second."""

    def table(self) -> pa.Table:
        """The rows."""
        return pa.ipc.open_stream(self.rows).read_all()


def parts_of(unit: ShardUnit, *, batch: int) -> Sequence[EncodePart]:
    """Parts of a unit, in reading order; pools take it as ``partial(parts_of, batch=...)``.

    Args:
        unit: The unit.
        batch: Rows of the encoder's forward pass; a part has as many, within limits, or a few
            more, so that it ends where a supertile does.
    """
    rows = min(max(batch, MIN_PART_ROWS), MAX_PART_ROWS)
    cuts = [0, *_cuts(unit.supertile_ends, rows)]
    pieces = [unit.reading_order[start:end] for start, end in pairwise(cuts)]
    return [
        EncodePart(positions, arrow_stream(unit.rows.take(arrow_numbers(positions))))
        for positions in pieces
    ]


def _cuts(ends: npt.NDArray[np.int64], rows: int) -> list[int]:
    """Where parts end: where supertiles do, as soon as a part has ``rows`` rows."""
    cuts: list[int] = []
    start = 0
    for number, end in enumerate(int(end) for end in ends):
        while end - start > MAX_PART_ROWS:
            previous = int(ends[number - 1]) if number else 0
            start = previous if previous > start else start + MAX_PART_ROWS
            cuts.append(start)
        if end - start >= rows or number == len(ends) - 1:
            cuts.append(end)
            start = end
    return cuts


class EncodeReader:
    """Reads the pixels of parts; opens the slides' table in the process that reads.

    Args:
        patches: Folder of the PatchIndex.
    """

    def __init__(self, patches: StoragePath) -> None:
        self._reader = RowReader(IndexedSlides.open(patches))

    def read(self, part: EncodePart) -> PixelBlock:
        """Pixels of a part; ``positions`` and ``failures`` count in the unit."""
        before = read_so_far()  # a process reads one part at a time
        block = self._reader.read_rows(part.table())
        failures = {int(part.positions[row]): reason for row, reason in block.failures.items()}
        return PixelBlock(part.positions, block.pixels, failures, read_so_far() - before)
