"""A small real part of an encode run, for its speed: real patches, model, workers, storage.

The sample is some whole shards of the same order of patches. They are written below a scratch
prefix of the site's root, which is removed afterwards whatever happens.
"""

import time
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from histodiff.cluster.site import NoRay, Site
from histodiff.data_prep.stages.metering import MeteredShard
from histodiff.errors import ConfigError
from histodiff.latents import ShardPlan, ShardUnit, ShardWriter, StoreLayout
from histodiff.runtime import Finished, generator_for
from histodiff.storage import remove_tree
from histodiff.workflows.encode.speed import EncodeSpeed, Stopwatch

MEASURE_SECONDS = 20.0
MAX_SHARD_ROWS = 1024
"""Rows of a shard of the sample: larger ones are cut, or a few would take too long."""
_MAX_SHARDS = 64

Run = Callable[
    [Sequence[ShardUnit], ShardWriter], Generator[Finished[ShardUnit, MeteredShard], None, None]
]


def num_encoders(site: Site, shards: int) -> int:
    """Encoders that are at work at the same time."""
    return 1 if isinstance(site.ray, NoRay) else max(1, min(site.encode_workers, shards))


def sample_rows_per_shard(layout: StoreLayout) -> int:
    """Rows of a shard of the sample: whole inner chunks."""
    if layout.rows_per_shard <= MAX_SHARD_ROWS:
        return layout.rows_per_shard
    return max(1, MAX_SHARD_ROWS // layout.rows_per_chunk) * layout.rows_per_chunk


def measured_speed(
    run: Run, plan: ShardPlan, layout: StoreLayout, site: Site, *, seconds: float
) -> EncodeSpeed:
    """Encodes shards for about ``seconds``, two per encoder at least, and throws them away.

    Args:
        run: Encodes units as the command does.
        plan: Cut into shards of ``sample_rows_per_shard``.
        layout: Of the store; shards of the sample may be smaller.
        site: Where it runs.
        seconds: How long; starting comes on top.

    Raises:
        ConfigError: There are fewer shards than two per encoder.
    """
    sampled = replace(layout, rows_per_shard=plan.rows_per_shard)
    units = _spread(plan)
    encoders = num_encoders(site, len(units))
    if len(units) < 2 * encoders:
        raise ConfigError(
            f"--measure: {len(units)} full shards are too few for {encoders} encoders to be"
            " measured; run the command itself, or give rates.patches_per_second"
        )
    scratch = site.storage_root / f"scratch-plan-{uuid.uuid4().hex}"
    watch = Stopwatch(encoders)
    try:
        finishing = run(units, ShardWriter(scratch, sampled))
        for finished in finishing:
            watch.lap(finished.record.record.rows)
            if _is_enough(watch, seconds):
                break
        ended = time.monotonic()
        finishing.close()
        end_seconds = time.monotonic() - ended
    finally:
        remove_tree(scratch)
    rows = sum(count for _, count in watch.finished)
    source = f"measured now on {rows:,} patches in {len(watch.finished)} shards"
    speed = watch.speed(source=source, end_seconds=end_seconds)
    assert speed is not None
    return speed


def _spread(plan: ShardPlan) -> Sequence[ShardUnit]:
    """Full shards from all over the plan, in random order."""
    full = len(plan.patch_of_row) // plan.rows_per_shard
    chosen = generator_for(0, "sample").permutation(full)[:_MAX_SHARDS].tolist()
    return plan.units_of(chosen)


def _is_enough(watch: Stopwatch, seconds: float) -> bool:
    if len(watch.finished) < 2 * watch.encoders:
        return False
    warm, _ = watch.finished[watch.encoders - 1]
    last, _ = watch.finished[-1]
    return last - warm >= seconds
