"""What mixing costs: slides and supertiles of a shard, counted in the plan.

``python -m tests.benchmarks.mixing_cost`` prints a table for a cohort like that of ``large_store``.
"""

import argparse
import tempfile
from itertools import product

import numpy as np

from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.latents import plan_shards
from histodiff.runtime.patches import READ_SCHEMA
from histodiff.storage import storage_path
from tests.support.null_encoding import write_null_inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--slides", type=int, default=1_000)
    parser.add_argument("--rows-per-shard", type=int, nargs="+", default=[8192, 131_072])
    parser.add_argument("--mixing", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--supertile", type=int, nargs="+", default=[4, 8])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="histodiff-mixing-") as folder:
        root = storage_path(folder)
        write_null_inputs(root, rows=arguments.rows, slides=arguments.slides)
        index = PatchIndex.open(root / "patches/patches/v1", columns=READ_SCHEMA.names)
    slide = index.patches["slide_id"].combine_chunks().indices.to_numpy()
    print("rows/shard  supertile  mixing  slides/shard  supertiles/shard  rows/slide  opens/slide")
    sizes = product(arguments.rows_per_shard, arguments.supertile, arguments.mixing)
    for rows_per_shard, supertile, mixing in sizes:
        plan = plan_shards(
            index.patches, supertile=supertile, mixing=mixing, rows_per_shard=rows_per_shard, seed=0
        )
        shards = [plan.patches_of(shard) for shard in range(plan.num_shards)]
        opens = [len(np.unique(slide[patches])) for patches in shards]
        blocks = [len(np.unique(plan.block_of_patch[patches])) for patches in shards]
        print(
            f"{rows_per_shard:10,} {supertile:10} {mixing:7} {np.mean(opens):13.1f}"
            f" {np.mean(blocks):17.1f} {arguments.rows / sum(opens):11.1f}"
            f" {sum(opens) / arguments.slides:12.1f}"
        )


if __name__ == "__main__":
    main()
