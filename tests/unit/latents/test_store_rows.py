"""The row table is written and hashed piece by piece, and is what it is as a whole."""

import io
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from histodiff.latents import rows as rows_module
from histodiff.latents.rows import OK, ROWS_SCHEMA, StoreRows, parquet_bytes, reason_code

TEXT = pa.string()
TEXTS = ("slide_id", "patient_id", "label", "split")


def patches(number, *, dictionaries=False):
    draw = np.random.default_rng(number)
    table = pa.table(
        {
            "slide_id": [f"slide-{k}-\u00e9" for k in draw.integers(0, 9, number)],
            "patient_id": pa.array([("p", None, "")[k] for k in draw.integers(0, 3, number)], TEXT),
            "x": draw.integers(0, 2**30, number),
            "y": draw.integers(0, 2**30, number),
            "label": pa.array([(None, "a", "bb")[k] for k in draw.integers(0, 3, number)], TEXT),
            "split": pa.nulls(number, TEXT),
        }
    )
    compact = {
        name: table[name].dictionary_encode() if name in TEXTS else table[name].cast(pa.int32())
        for name in table.column_names
    }
    return pa.table(compact) if dictionaries else table


def whole(table, order, quarantined):
    """The row table at once."""
    status = [reason_code(quarantined.get(row, OK)) for row in range(len(order))]
    columns = {name: table[name].take(pa.array(order)) for name in table.column_names}
    columns |= {"patch": pa.array(order), "status": pa.array(status)}
    table = pa.table([columns[name] for name in ROWS_SCHEMA.names], names=ROWS_SCHEMA.names)
    return table.cast(ROWS_SCHEMA)


def digest_of_format_1(table):
    """The digest as the first stores have it: column by column, over all rows at once."""
    digest = sha256()
    for name in table.column_names:
        values = table[name].to_pylist()
        digest.update(f"{name}:{table[name].type}\n".encode())
        digest.update(np.packbits([value is None for value in values]).tobytes())
        if isinstance(values[0], int):
            digest.update(np.array(values, "<i8").tobytes())
        else:
            texts = [(value or "").encode() for value in values]
            digest.update(np.array([len(text) for text in texts], "<i4").tobytes())
            digest.update(b"".join(texts))
    return digest.hexdigest()


@pytest.mark.parametrize("dictionaries", [False, True])
@pytest.mark.parametrize("number", [1, 16, 50])
def test_rows_in_pieces_are_the_whole_table(monkeypatch, number, dictionaries):
    monkeypatch.setattr(rows_module, "ROWS_PER_FILE", 16)
    order = np.random.default_rng(0).permutation(number).astype(np.uint32)
    quarantined = {row: f"UNREADABLE: row {row}" for row in range(0, number, 7)}
    quarantined |= {number - 1: "NON_FINITE"}
    table = patches(number, dictionaries=dictionaries)
    rows = StoreRows(table, order, quarantined)
    expected = whole(patches(number), order.astype(np.int64), quarantined)
    files = dict(rows.files())
    assert list(files) == [f"rows/{k:05d}.parquet" for k in range(-(-number // 16))]
    for piece, (_, data) in enumerate(files.items()):
        assert data == parquet_bytes(expected.slice(16 * piece, 16))
    read = pa.concat_tables([pq.read_table(io.BytesIO(data)) for data in files.values()])
    assert read.equals(expected)
    assert rows.sha256() == digest_of_format_1(expected)


def test_rows_digest_depends_on_every_value():
    order = np.arange(50, dtype=np.uint32)
    table = patches(50)
    first = StoreRows(table, order, {}).sha256()
    assert StoreRows(table, order[::-1].copy(), {}).sha256() != first
    assert StoreRows(table, order, {3: "UNREADABLE"}).sha256() != first
    assert (
        StoreRows(table, order, {3: "UNREADABLE"}).sha256()
        == StoreRows(table, order, {3: "UNREADABLE: with detail"}).sha256()
    )
