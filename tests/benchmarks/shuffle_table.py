"""Prints how well the order of training mixes slides, for the table in ``latents/README.md``.

    python -m tests.benchmarks.shuffle_table

Simulated: 131,072 rows of 16 KiB from 1,000 slides of log-normal sizes, supertiles of 8, batches of
256, slabs of 4 MiB. No latents are written or read.
"""

import numpy as np
import pyarrow as pa

from histodiff.latents import ReaderSettings, plan_shards
from histodiff.latents.lanes import LaneOrder
from histodiff.latents.shuffle_quality import shuffle_quality, slide_opens
from histodiff.latents.slabs import SlabGrid

ROWS, SLIDES, BATCH, ROW_BYTES, SUPERTILE = 131_072, 1000, 256, 16 * 1024, 8
SLAB_ROWS = ReaderSettings().slab_bytes // ROW_BYTES


def simulated_patches() -> tuple[pa.Table, np.ndarray]:
    """A patch table of square slides of uneven sizes, and the slide of every patch."""
    rng = np.random.Generator(np.random.Philox(3))
    shares = np.cumsum(rng.lognormal(0, 0.7, SLIDES))
    slide = np.searchsorted(shares / shares[-1], (np.arange(ROWS) + 0.5) / ROWS)
    position = np.arange(ROWS) - np.searchsorted(slide, slide)
    side = np.ceil(np.sqrt(np.bincount(slide)))[slide].astype(np.int64)
    columns = {
        "slide_id": np.char.mod("slide-%04d", slide),
        "path": [""] * ROWS,
        "x": position % side * 256,
        "y": position // side * 256,
    }
    return pa.table(columns), slide


def main() -> None:
    """One line per setting."""
    patches, slide = simulated_patches()
    flags = np.zeros(ROWS, np.uint8)
    print("shard mixing opens lanes window  distinct  lag-1")
    for shard, mixing in [(size, mixing) for size in (4096, 8192) for mixing in (16, 64, 256)]:
        plan = plan_shards(
            patches, supertile=SUPERTILE, mixing=mixing, rows_per_shard=shard, seed=0
        )
        slides = slide[plan.patch_of_row]
        opens = slide_opens(plan, slides)
        for lanes, window in [(lanes, window) for lanes in (4, 8, 64) for window in (1, 2, 4, 8)]:
            order = LaneOrder(flags, 0, SlabGrid(ROWS, shard, SLAB_ROWS), lanes, window, seed=1)
            found = shuffle_quality(order, slides, batch=BATCH)
            print(
                f"{shard:5d} {mixing:6d} {opens:5.0f} {lanes:5d} {window:6d}"
                f"     {found.distinct_ratio:.3f} {found.lag_1_correlation:.4f}"
            )


if __name__ == "__main__":
    main()
