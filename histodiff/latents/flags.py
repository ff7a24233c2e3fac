"""One byte per row of a store: all that the order of training needs of the row table.

Columns are read file by file; nothing of the table is kept.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from histodiff.errors import ArtifactCorrupt
from histodiff.latents.layout import ROWS_FOLDER
from histodiff.latents.rows import OK
from histodiff.storage import StoragePath, list_names

QUARANTINED = 0
_NO_SPLIT = 1
_FIRST_SPLIT = 2
_LAST = 255
_COLUMNS = ["split", "status"]
_AT_ONCE = 8


@dataclass(frozen=True)
class RowFlags:
    """Which rows are there, and in which split."""

    codes: npt.NDArray[np.uint8]
    """Per row: 0 quarantined, 1 without a split, from 2 on the number of the split."""
    splits: tuple[str, ...]
    """Sorted names of the splits."""

    @classmethod
    def read(cls, path: StoragePath) -> "RowFlags":
        """Flags of the store at ``path``."""
        folder = path / ROWS_FOLDER
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            parts = list(threads.map(_file_flags, [folder / name for name in list_names(folder)]))
        splits = sorted({name for part in parts for name in part.splits})
        if len(splits) > _LAST - _FIRST_SPLIT:
            raise ArtifactCorrupt(f"{folder}: {len(splits)} different splits")
        codes = [part.renumbered(splits) for part in parts]
        return cls(np.concatenate(codes) if codes else np.empty(0, np.uint8), tuple(splits))

    def code(self, split: str) -> int | None:
        """The number of a split; None where no valid row is in it."""
        return self.splits.index(split) + _FIRST_SPLIT if split in self.splits else None

    def with_splits(self, splits: Sequence[str | None]) -> "RowFlags":
        """The same rows in other splits; those that are quarantined stay so."""
        names = sorted({name for name in splits if name is not None})
        number: dict[str | None, int] = {None: _NO_SPLIT}
        number |= {name: k + _FIRST_SPLIT for k, name in enumerate(names)}
        codes = np.array([number[name] for name in splits], np.uint8)
        return RowFlags(np.where(self.codes == QUARANTINED, np.uint8(0), codes), tuple(names))

    def renumbered(self, splits: Sequence[str]) -> npt.NDArray[np.uint8]:
        """Codes for another tuple of splits, which has these."""
        table = [QUARANTINED, _NO_SPLIT]
        table += [_FIRST_SPLIT + splits.index(name) for name in self.splits]
        return np.asarray(table, np.uint8)[self.codes]


def distinct_rows(path: StoragePath, columns: list[str]) -> pa.Table:
    """Different combinations of values in columns of the row table of the store at ``path``."""
    folder = path / ROWS_FOLDER

    def of_file(name: str) -> pa.Table:
        with (folder / name).open("rb") as stream:
            table = pq.ParquetFile(stream).read(columns=columns, use_threads=False)
        return table.group_by(columns, use_threads=False).aggregate([])

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        found = pa.concat_tables(threads.map(of_file, list_names(folder)))
    return found.group_by(columns, use_threads=False).aggregate([])


def _file_flags(path: StoragePath) -> RowFlags:
    """Flags of one file of the row table."""
    try:
        with path.open("rb") as stream:
            file = pq.ParquetFile(stream, read_dictionary=_COLUMNS, pre_buffer=True)
            table = file.read(columns=_COLUMNS, use_threads=False).unify_dictionaries()
    except (pa.ArrowInvalid, KeyError) as error:
        raise ArtifactCorrupt(f"{path}: is not a row table: {error}") from error
    split, status = (table[name].combine_chunks() for name in _COLUMNS)
    valid = _numbers(status) == _index_of(status, OK)
    codes = np.where(valid, _numbers(split) + _FIRST_SPLIT, QUARANTINED).astype(np.uint8)
    return RowFlags(codes, tuple(split.dictionary.to_pylist()))


def _numbers(column: pa.DictionaryArray) -> npt.NDArray[np.int32]:
    """Place of every row's value in the dictionary, -1 without one.

    From Arrow's own buffers: its conversion of nulls to NumPy imports pandas, which takes seconds.
    """
    valid, values = column.indices.buffers()
    start, stop = column.indices.offset, column.indices.offset + len(column)
    numbers = np.frombuffer(values, np.int32)[start:stop]
    if not column.null_count:
        return numbers
    bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")[start:stop]
    return np.where(bits, numbers, -1)


def _index_of(column: pa.DictionaryArray, value: str) -> int:
    """Number of a value in the dictionary; one that no row has where it is not there."""
    names = column.dictionary.to_pylist()
    return names.index(value) if value in names else len(names)
