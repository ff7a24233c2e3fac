"""What the whitening of a store costs: one pass over it, in seconds and memory.

``python -m tests.benchmarks.whitening_pass FOLDER [--rows 131072]`` writes a store of
random rows of 16 KiB (2 GiB by default) into FOLDER if there is none, and reads it twice; the first
time may be cold.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from histodiff.latents import LatentStore, ShardWriter, finish_store, mixture_whitening
from histodiff.storage import StoragePath, storage_path
from tests.support.latent_stores import store_layout


def write_rows(place: StoragePath, rows: int) -> None:
    """A store of ``rows`` rows, a fifth of them for validation."""
    texts = {"slide_id": "s", "patient_id": "p", "path": "", "label": "a"}
    columns = {name: pa.array([text] * rows) for name, text in texts.items()}
    columns |= {name: pa.array(np.arange(rows)) for name in ("x", "y")}
    columns["split"] = pa.array(np.where(np.arange(rows) % 5 == 0, "val", "train"))
    layout = store_layout(rows, moment_shape=(8, 32, 32), rows_per_shard=4096, rows_per_chunk=256)
    writer = ShardWriter(place, layout)
    writer.write_metadata()
    drawn = np.random.default_rng(0).normal(size=(4096, 8, 32, 32)).astype(np.float16)
    records = {
        shard: writer.write(shard, np.abs(drawn[: len(layout.shard_rows(shard))]), {})
        for shard in range(layout.num_shards)
    }
    finish_store(
        place, layout, patches=pa.table(columns), patch_of_row=np.arange(rows), records=records
    )


def main() -> None:
    """Prints one JSON object per pass."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=131_072)
    arguments = parser.parse_args()
    place = storage_path(arguments.folder)
    if not arguments.folder.exists():
        write_rows(place, arguments.rows)
    store = LatentStore.open(place)
    gib = store.num_rows * store.layout.row_bytes / 2**30
    for _ in range(2):
        started, cpu = time.monotonic(), time.process_time()
        mixture_whitening([store], [1.0])
        print(
            json.dumps(
                {
                    "gib": round(gib, 3),
                    "seconds": round(time.monotonic() - started, 2),
                    "cpu_seconds": round(time.process_time() - cpu, 2),
                    "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
