"""What a resumed ``encode`` pays for a long ledger: one listing at the start, records at the end.

``python -m tests.benchmarks.large_ledger --records 20000 [--root s3://bucket/prefix]``.
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from histodiff.latents.layout import ledger_name
from histodiff.latents.writer import ShardRecord, read_ledger, recorded_shards
from histodiff.storage import remove_tree, storage_path, write_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--root", default="")
    arguments = parser.parse_args()
    root = storage_path(arguments.root or tempfile.mkdtemp(prefix="histodiff-ledger-"))

    def write(shard: int) -> None:
        record = ShardRecord(
            shard=shard, rows=8192, size_bytes=2**27, sha256="0" * 64, quarantined={}
        )
        write_bytes(root / ledger_name(shard), record.model_dump_json(indent=2).encode())

    try:
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(write, range(arguments.records)))
        started = time.monotonic()
        recorded = recorded_shards(root)
        listed = time.monotonic()
        records = read_ledger(root, recorded)
        read = time.monotonic()
        assert len(records) == arguments.records
        rate = len(records) / (read - listed)
        print(
            f"{len(records)} records in {root}: listed in {listed - started:.2f} s, read in"
            f" {read - listed:.2f} s, {rate:,.0f} records/s"
        )
    finally:
        remove_tree(root)


if __name__ == "__main__":
    main()
