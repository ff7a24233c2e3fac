"""Formats of what is generated: the SampleStore, and the Selection made from one."""

from histodiff.samples.selection import Decision, Selection, training_order, write_selection
from histodiff.samples.store import SampleStore, StoreHeader
from histodiff.samples.writer import (
    SHARDS,
    ShardRecord,
    finish_store,
    finished_shards,
    png_bytes,
    write_packed_shard,
    write_shard,
)

__all__ = [
    "SHARDS",
    "Decision",
    "SampleStore",
    "Selection",
    "ShardRecord",
    "StoreHeader",
    "finish_store",
    "finished_shards",
    "png_bytes",
    "training_order",
    "write_packed_shard",
    "write_selection",
    "write_shard",
]
