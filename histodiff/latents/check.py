"""Checking a store to the byte, without trusting the reader: what ``verify`` says of it.

Tables are compared with one another, shards with the tables. Whoever has a shard's bytes at hand
gives them, so that a large store is read once.
"""

from collections.abc import Iterator
from hashlib import sha256

import numpy as np
import pyarrow.compute as pc

from histodiff.errors import ArtifactError
from histodiff.latents.codec import missing_chunks, shard_moments
from histodiff.latents.layout import ledger_name, shard_name
from histodiff.latents.rows import OK
from histodiff.latents.store import LatentStore
from histodiff.latents.writer import read_ledger
from histodiff.storage import StoragePath, read_bytes


def store_problems(path: StoragePath) -> Iterator[str]:
    """One line per problem: missing shards and inner chunks, wrong counts, digests, lost rows."""
    try:
        store = LatentStore.open(path)
    except ArtifactError as error:
        yield str(error)
        return
    for shard in listed_shards(store):
        yield from shard_problems(store, shard, read_bytes(path / shard_name(shard)))
    yield from table_problems(store)


def listed_shards(store: LatentStore) -> list[int]:
    """Shards that ``shards.parquet`` lists and the layout knows, ascending."""
    numbers: list[int] = store.shards["shard"].to_pylist()
    return sorted(set(numbers) & set(range(store.layout.num_shards)))


def table_problems(store: LatentStore) -> Iterator[str]:
    """One line per problem of ``shards.parquet`` and the ledger; reads no shard."""
    layout = store.layout
    if store.shards["shard"].to_pylist() != list(range(layout.num_shards)):
        yield f"shards.parquet: lists {store.shards.num_rows} shards, planned {layout.num_shards}"
    elif sum(store.shards["rows"].to_pylist()) != layout.num_rows:
        yield "shards.parquet: written + quarantined rows are not the planned rows"
    ledger = read_ledger(store.path)
    for line in store.shards.to_pylist():
        record = ledger.pop(line["shard"], None)
        if record is None:
            yield f"{ledger_name(line['shard'])}: missing"
        elif record.sha256 != line["sha256"]:
            yield f"{ledger_name(line['shard'])}: records other bytes than shards.parquet"
        elif (record.rows, record.size_bytes, len(record.quarantined)) != (
            line["rows"], line["size_bytes"], line["quarantined"],
        ):  # fmt: skip
            yield f"{ledger_name(line['shard'])}: records other counts than shards.parquet"
    yield from (f"{ledger_name(shard)}: is not in shards.parquet" for shard in ledger)


def shard_problems(store: LatentStore, shard: int, data: bytes) -> Iterator[str]:
    """One line per problem of a listed shard, whose object is ``data``."""
    name = shard_name(shard)
    line = store.shards.filter(pc.equal(store.shards["shard"], shard)).to_pylist()[0]
    if sha256(data).hexdigest() != line["sha256"]:
        yield f"{name}: sha256 is not the recorded one"
    missing = missing_chunks(store.layout, shard, data)
    if missing:
        yield f"{name}: inner chunks {missing} are missing"
        return
    try:
        finite = np.isfinite(shard_moments(store.layout, shard, data)).all(axis=(1, 2, 3))
    except ValueError as error:  # zarr: the checksum of the shard's index does not match
        yield f"{name}: {error}"
        return
    rows = store.layout.shard_rows(shard)
    status = store.rows["status"].slice(rows.start, len(rows))
    valid = pc.equal(status, OK).to_numpy()
    if int((~valid).sum()) != line["quarantined"]:
        counts = int((~valid).sum()), line["quarantined"]
        yield "{}: {} quarantined rows in rows/, {} recorded".format(name, *counts)
    for position in np.flatnonzero(valid != finite):
        kind = "is NaN, but not quarantined" if valid[position] else "is quarantined, but not NaN"
        yield f"{name}: row {rows.start + position} {kind}"
