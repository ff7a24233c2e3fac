"""Prints the table of what reads a slab fastest, from a folder and from Ceph's gateway.

    make bench-slabs

The ways take turns; medians of megabytes per second count, and the CPU time that the client needs
for a gigabyte. Every way first makes a pass that is not timed, whose bytes are checked.
"""

import argparse
import json
import os
import platform
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from statistics import median
from typing import Any

from histodiff.latents import LatentStore
from histodiff.storage import storage_path
from histodiff.workflows.bench.latents import BenchSize, bench_store
from histodiff.workflows.bench.loader_s3 import s3_folder, slab_ranges, uploaded
from histodiff.workflows.bench.peers import PeerProcess, peer_process
from tests.support.ceph import KEY, SECRET, running_ceph
from tests.support.s3 import aws_environment

SCRIPT = "tests/benchmarks/slabs/slab_reads.py"
SIGNED_SECONDS = 24 * 3600
Row = dict[str, Any]


def main() -> None:
    arguments = parsed()
    with ExitStack() as stack:
        folder = arguments.folder or stack.enter_context(tempfile.TemporaryDirectory())
        store = bench_store(storage_path(folder), BenchSize(arguments.rows, arguments.shard))
        endpoint = stack.enter_context(running_ceph())
        stack.enter_context(aws_environment(endpoint, key=KEY, secret=SECRET))
        remote = uploaded(store, s3_folder("s3://bench/slabs"))
        peers = [
            stack.enter_context(peer_process(python, SCRIPT, target="bench-slabs"))
            for python in arguments.python
        ]
        opened = [peer.ask(do="open", **setting(store, remote)) for peer in peers]
        rows = measured(peers, opened, at_once=arguments.at_once, rounds=arguments.rounds)
    print(table(rows, [answer["versions"] for answer in opened], arguments))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", nargs="+", help="interpreters that have the packages")
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--shard", type=int, default=4_096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--folder", help="keeps the store for the next time")
    return parser.parse_args()


def setting(store: LatentStore, remote: LatentStore) -> dict[str, Any]:
    layout = store.layout
    slab_bytes = layout.rows_per_chunk * layout.row_bytes
    ranges = slab_ranges(store)
    bucket, prefix = remote.path.path.rstrip("/").split("/", 1)
    signed = {
        str(shard): remote.path.fs.sign(
            f"{remote.path.path}/moments/c/{shard}/0/0/0", SIGNED_SECONDS
        )
        for shard in range(layout.num_shards)
    }
    return {
        "folder": store.path.path,
        "bucket": bucket,
        "prefix": prefix,
        "signed": signed,
        "slabs": [(int(item.path.parts[-4]), item.start // slab_bytes) for item in ranges],
        "slab_bytes": slab_bytes,
        "slab_rows": layout.rows_per_chunk,
        "slabs_per_shard": layout.chunks_per_shard,
    }


def measured(
    peers: list[PeerProcess], opened: list[dict[str, Any]], *, at_once: list[int], rounds: int
) -> list[Row]:
    """One row per way and number in flight; a way that two environments share runs in the last."""
    owner = {
        way: peer for peer, answer in zip(peers, opened, strict=True) for way in answer["ways"]
    }
    rows = [{"way": way, "at_once": count, "passes": []} for way in owner for count in at_once]
    digests = set()
    for row in rows:
        answer = owner[row["way"]].ask(
            do="read", way=row["way"], at_once=row["at_once"], check=True
        )
        row["error"] = answer.get("error")
        if not row["error"]:
            digests.add((answer["digest"], answer["bytes"]))
    assert len(digests) == 1, "the ways read different bytes"
    for _ in range(rounds):
        for row in rows:
            if not row["error"]:
                row["passes"].append(
                    owner[row["way"]].ask(
                        do="read", way=row["way"], at_once=row["at_once"], check=False
                    )
                )
    return rows


def table(rows: list[Row], versions: list[dict[str, str]], arguments: argparse.Namespace) -> str:
    """Markdown: a row per way, two columns per number in flight."""
    heads = [f"MB/s, {count} in flight | CPU s/GB" for count in arguments.at_once]
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores,"
        f" {memory_gib()} GiB; {arguments.rows} rows of 16 KiB in slabs of 4 MiB, medians of"
        f" {arguments.rounds} passes that take turns.",
        *(f"Versions: {json.dumps(found)}" for found in versions),
        "",
        f"| way | {' | '.join(heads)} |",
        f"|---|{'---:|' * 2 * len(heads)}",
    ]
    best = sorted({row["way"] for row in rows}, key=lambda way: (place(way), -speed(rows, way)))
    for way in best:
        mine = [row for row in rows if row["way"] == way]
        lines.append(f"| {way} | {' | '.join(cell(row) for row in mine)} |")
    return "\n".join(lines)


def place(way: str) -> str:
    return way.split(":")[0]


def speed(rows: list[Row], way: str) -> float:
    return max(rate(row) for row in rows if row["way"] == way)


def rate(row: Row) -> float:
    """Median megabytes per second."""
    if row["error"]:
        return 0.0
    return median(one["bytes"] / one["seconds"] for one in row["passes"]) / 1e6


def cell(row: Row) -> str:
    if row["error"]:
        return f"no: {row['error'][:60]} | "
    cpu = median(one["cpu_seconds"] / one["bytes"] * 1e9 for one in row["passes"])
    return f"{rate(row):,.0f} | {cpu:.2f}"


def memory_gib() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return round(total / 2**30)


if __name__ == "__main__":
    main()
