"""The row table of a store: which patch a row is, and whether it is there.

``rows/*.parquet`` is split into files of ``ROWS_PER_FILE`` rows. The table holds no URL and no text
of an error (details are in the ledger), so that its digest is equal wherever slides and store lie.
"""

import io
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histodiff.latents.layout import ROWS_FOLDER
from histodiff.storage import StoragePath, list_names

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
_FROM_PATCHES = ("slide_id", "patient_id", "x", "y", "label", "split")


def rows_table(
    patches: pa.Table, patch_of_row: npt.NDArray[np.int64], quarantined: dict[int, str]
) -> pa.Table:
    """The row table, in row order.

    Args:
        patches: Table of a PatchIndex.
        patch_of_row: Row number in ``patches`` of every row of the store.
        quarantined: Reason by row of the store, with or without detail behind a colon; every other
            row is ``ok``.
    """
    taken = patches.select(list(_FROM_PATCHES)).take(pa.array(patch_of_row))
    status = [OK] * len(patch_of_row)
    for row, reason in quarantined.items():
        status[row] = reason_code(reason)
    columns = {name: taken[name] for name in _FROM_PATCHES}
    columns |= {"patch": pa.array(patch_of_row), "status": pa.array(status, pa.string())}
    return pa.table([columns[name] for name in ROWS_SCHEMA.names], names=ROWS_SCHEMA.names).cast(
        ROWS_SCHEMA
    )


def reason_code(reason: str) -> str:
    """The machine-readable part of a reason: ``UNREADABLE`` of ``UNREADABLE: truncated file``."""
    return reason.partition(":")[0]


def row_files(table: pa.Table) -> dict[str, bytes]:
    """Bytes of ``rows/*.parquet`` by relative path."""
    starts = range(0, table.num_rows, ROWS_PER_FILE)
    return {
        f"{ROWS_FOLDER}/{number:05d}.parquet": parquet_bytes(table.slice(start, ROWS_PER_FILE))
        for number, start in enumerate(starts)
    }


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
    return pq.ParquetFile(io.BytesIO(path.read_bytes())).read()  # read_table imports pandas


def table_digest(table: pa.Table) -> str:
    """SHA-256 over names, types and values of a table, whatever the file format or its version."""
    digest = sha256()
    for name in table.column_names:
        column = table[name]
        digest.update(f"{name}:{column.type}\n".encode())
        digest.update(np.packbits(column.is_null().to_numpy(zero_copy_only=False)).tobytes())
        if pa.types.is_string(column.type):
            texts = pc.fill_null(column, "")
            digest.update(pc.binary_length(texts).to_numpy().astype("<i4").tobytes())
            digest.update("".join(texts.to_pylist()).encode())
        else:
            values = pc.fill_null(column, 0).to_numpy()
            digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
