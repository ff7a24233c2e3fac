"""The LatentStore: raw latent moments in a sharded Zarr v3 group, and what reads it."""

from histodiff.latents.cache import SlabCache
from histodiff.latents.check import listed_shards, shard_problems, store_problems, table_problems
from histodiff.latents.finish import StoreDigests, finish_store
from histodiff.latents.layout import LatentStoreConfig, StoreAttributes, StoreLayout
from histodiff.latents.mixture import LatentBatch, LatentMixture, ReaderSettings
from histodiff.latents.plan import ShardPlan, ShardUnit, plan_shards
from histodiff.latents.scaling import (
    UNIT_VARIANCE,
    PowerScaling,
    PublishedScaling,
    ScalingConfig,
    scaling_rule,
)
from histodiff.latents.statistics import ChannelStatistics
from histodiff.latents.store import LatentStore
from histodiff.latents.whitening import View, Whitening, mixture_whitening
from histodiff.latents.writer import ShardRecord, ShardWriter, read_ledger, store_statistics

__all__ = [
    "UNIT_VARIANCE",
    "ChannelStatistics",
    "LatentBatch",
    "LatentMixture",
    "LatentStore",
    "LatentStoreConfig",
    "PowerScaling",
    "PublishedScaling",
    "ReaderSettings",
    "ScalingConfig",
    "ShardPlan",
    "ShardRecord",
    "ShardUnit",
    "ShardWriter",
    "SlabCache",
    "StoreAttributes",
    "StoreDigests",
    "StoreLayout",
    "View",
    "Whitening",
    "finish_store",
    "listed_shards",
    "mixture_whitening",
    "plan_shards",
    "read_ledger",
    "scaling_rule",
    "shard_problems",
    "store_problems",
    "store_statistics",
    "table_problems",
]
