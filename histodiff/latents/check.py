"""Checking a store to the byte, without trusting the reader: what ``verify`` says of it."""

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
from histodiff.storage import StoragePath


def store_problems(path: StoragePath) -> Iterator[str]:
    """One line per problem: missing shards and inner chunks, wrong counts, digests, lost rows."""
    try:
        store = LatentStore.open(path)
    except ArtifactError as error:
        yield str(error)
        return
    layout = store.layout
    if store.shards["shard"].to_pylist() != list(range(layout.num_shards)):
        yield f"shards.parquet: lists {store.shards.num_rows} shards, planned {layout.num_shards}"
        return
    if sum(store.shards["rows"].to_pylist()) != layout.num_rows:
        yield "shards.parquet: written + quarantined rows are not the planned rows"
    ledger = read_ledger(path)
    for line in store.shards.to_pylist():
        if line["shard"] not in ledger:
            yield f"{ledger_name(line['shard'])}: missing"
        elif ledger[line["shard"]].sha256 != line["sha256"]:
            yield f"{ledger_name(line['shard'])}: records other bytes than shards.parquet"
        yield from _shard_problems(store, line["shard"], line["sha256"], line["quarantined"])


def _shard_problems(store: LatentStore, shard: int, digest: str, quarantined: int) -> Iterator[str]:
    name = shard_name(shard)
    data = (store.path / name).read_bytes()
    if sha256(data).hexdigest() != digest:
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
    if int((~valid).sum()) != quarantined:
        yield f"{name}: {int((~valid).sum())} quarantined rows in rows/, {quarantined} recorded"
    for position in np.flatnonzero(valid != finite):
        kind = "is NaN, but not quarantined" if valid[position] else "is quarantined, but not NaN"
        yield f"{name}: row {rows.start + position} {kind}"
