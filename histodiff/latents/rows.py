"""The row table of a store: which patch a row is, and whether it is there.

``rows/*.parquet`` is split into files of ``ROWS_PER_FILE`` rows. The table holds no URL and no text
of an error (details are in the ledger), so that its digest is equal wherever slides and store lie.
It is written and hashed piece by piece: memory does not grow with the rows.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histodiff.latents.layout import ROWS_FOLDER
from histodiff.storage import StoragePath, list_names, read_bytes

OK = "ok"
ROWS_PER_FILE = 2**20
ROWS_SCHEMA = pa.schema(
    [
        ("patch", pa.int64()),
        ("slide_id", pa.string()),
        ("patient_id", pa.string()),
        ("x", pa.int64()),
        ("y", pa.int64()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("status", pa.string()),
    ]
)


@dataclass(frozen=True)
class StoreRows:
    """The row table of a store; a piece of it is made when it is asked for, and not kept.

    Args:
        patches: Table of a PatchIndex, texts plain or as dictionaries.
        patch_of_row: Row number in ``patches`` of every row of the store.
        quarantined: Reason by row of the store, with or without detail behind a colon; every other
            row is ``ok``.
    """

    patches: pa.Table
    patch_of_row: npt.NDArray[np.integer[Any]]
    quarantined: Mapping[int, str]

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Relative path and bytes of ``rows/*.parquet``, one after the other."""
        for number, rows in enumerate(self._pieces()):
            columns = [self._column(name, rows) for name in ROWS_SCHEMA.names]
            table = pa.table(columns, schema=ROWS_SCHEMA)
            yield f"{ROWS_FOLDER}/{number:05d}.parquet", parquet_bytes(table)

    def sha256(self) -> str:
        """Digest over names, types and values, whatever the file format or its version.

        Of every column, which values are null, the values or the lengths of the texts, the texts.
        """
        digest = sha256()
        for field in ROWS_SCHEMA:
            digest.update(f"{field.name}:{field.type}\n".encode())
            text = pa.types.is_string(field.type)
            for of_piece in (_nulls, _lengths, _texts) if text else (_nulls, _integers):
                for rows in self._pieces():
                    digest.update(of_piece(self._column(field.name, rows)))
        return digest.hexdigest()

    def _pieces(self) -> Iterator[range]:
        """Rows of every file; a multiple of eight, so that bits of nulls fill bytes."""
        for start in range(0, len(self.patch_of_row), ROWS_PER_FILE):
            yield range(start, min(start + ROWS_PER_FILE, len(self.patch_of_row)))

    def _column(self, name: str, rows: range) -> pa.Array:
        if name == "status":
            return self._status(rows)
        patches = pa.array(self.patch_of_row[rows.start : rows.stop])
        column = patches if name == "patch" else self.patches[name].take(patches)
        values = column.cast(ROWS_SCHEMA.field(name).type)
        return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values

    def _status(self, rows: range) -> pa.Array:
        codes = np.zeros(len(rows), np.int32)
        names = {OK: 0}
        first, last = np.searchsorted(self._failed, [rows.start, rows.stop])
        for row in self._failed[first:last]:
            code = reason_code(self.quarantined[int(row)])
            codes[row - rows.start] = names.setdefault(code, len(names))
        return pa.DictionaryArray.from_arrays(codes, list(names)).cast(pa.string())

    @cached_property
    def _failed(self) -> npt.NDArray[np.int64]:
        """Quarantined rows, ascending."""
        return np.sort(np.fromiter(self.quarantined, np.int64, len(self.quarantined)))


def reason_code(reason: str) -> str:
    """The machine-readable part of a reason: ``UNREADABLE`` of ``UNREADABLE: truncated file``."""
    return reason.partition(":")[0]


def read_row_table(path: StoragePath) -> pa.Table:
    """The row table of the store at ``path``."""
    folder = path / ROWS_FOLDER
    parts = [read_parquet(folder / name) for name in list_names(folder)]
    return pa.concat_tables(parts) if parts else ROWS_SCHEMA.empty_table()


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as one Parquet file; equal tables give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(table.combine_chunks(), buffer, compression="zstd", row_group_size=2**17)
    return buffer.getvalue()


def read_parquet(path: StoragePath) -> pa.Table:
    """The table in one Parquet file."""
    return pq.ParquetFile(io.BytesIO(read_bytes(path))).read()  # read_table imports pandas


def _nulls(column: pa.Array) -> bytes:
    return np.packbits(column.is_null().to_numpy(zero_copy_only=False)).tobytes()


def _integers(column: pa.Array) -> bytes:
    values = pc.fill_null(column, 0).to_numpy()
    return bytes(values.astype(values.dtype.newbyteorder("<")).tobytes())


def _lengths(column: pa.Array) -> bytes:
    lengths = pc.binary_length(pc.fill_null(column, "")).to_numpy()
    return bytes(lengths.astype("<i4").tobytes())


def _texts(column: pa.Array) -> memoryview:
    """The UTF-8 of all texts, end to end, as Arrow holds it."""
    texts = pc.fill_null(column, "")
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(data or b"")[ends[0] : ends[-1]]
