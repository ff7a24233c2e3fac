"""A large store through the real ``encode`` with a null reader and encoder, and read again.

``python -m tests.benchmarks.large_store`` writes 2 million rows of 1 KiB from 1,000 slides and
prints a table: times, rows per second for every tenth of the work, memory of each process.
``--root s3://bucket/prefix`` writes to S3 (``AWS_*`` say where). Each step is a process of its own,
so that its peak of memory is its own.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil

from histodiff.cluster.site import LocalRay, NoRay, Site
from histodiff.latents import LatentMixture, LatentStore
from histodiff.storage import file_sizes, storage_path
from histodiff.workflows.encode import command as workflow
from histodiff.workflows.encode.finish import EncodedStore
from tests.support.encode_inputs import encode_config
from tests.support.null_encoding import NullReader, load_null_encoder, write_null_inputs

_MIB = 2**20
_STORE = "latents/latents/v1"


def main() -> None:
    arguments = _arguments()
    if arguments.step:
        print(json.dumps(_STEPS[arguments.step](arguments)))
        return
    root = arguments.root or tempfile.mkdtemp(prefix="histodiff-large-store-")
    try:
        for step in _STEPS:
            command = [sys.executable, "-m", "tests.benchmarks.large_store", *sys.argv[1:]]
            command += ["--step", step, "--root", root]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            for name, value in json.loads(found.splitlines()[-1]).items():
                print(f"{step:8} {name:28} {_shown(value)}", flush=True)
    finally:
        if not arguments.root and not arguments.keep:
            shutil.rmtree(root)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--slides", type=int, default=1_000)
    parser.add_argument("--rows-per-shard", type=int, default=16_384)
    parser.add_argument("--mixing", type=int, default=64)
    parser.add_argument("--encoders", type=int, default=1, help="0: no Ray, all in one process")
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--root", default="", help="folder or URL; a temporary folder by default")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    parser.add_argument("--step", choices=list(_STEPS), default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _prepare(arguments: argparse.Namespace) -> dict[str, Any]:
    write_null_inputs(storage_path(arguments.root), rows=arguments.rows, slides=arguments.slides)
    return {"rows": arguments.rows, "slides": arguments.slides}


def _encode(arguments: argparse.Namespace) -> dict[str, Any]:
    """Encodes, watching from outside when the driver's own functions begin and end."""
    workflow.EncodeReader = NullReader
    workflow.load_autoencoder = load_null_encoder
    times: dict[str, float] = {}
    ends: list[tuple[float, float]] = []
    rows: list[int] = []
    workers: list[float] = [0.0]
    run = workflow._run

    def watched(*inputs: Any, **named: Any) -> Iterator[Any]:
        ends.append(_now())
        for finished in run(*inputs, **named):
            ends.append(_now())
            rows.append(finished.record.record.rows)
            workers.append(_peak_of_workers())
            yield finished

    workflow._run = watched
    for owner, name in (
        (workflow, "shard_plan"),
        (workflow, "_done"),
        (EncodedStore, "published"),
    ):
        setattr(owner, name, _timed(getattr(owner, name), name, times))
    before = _peak()
    store = {"rows_per_shard": arguments.rows_per_shard, "rows_per_chunk": 256}
    config = encode_config(store=store, supertile=8, mixing=arguments.mixing, batch=256)
    started = time.monotonic()
    artifact = workflow.encode(config, _site(arguments))
    sizes = file_sizes(artifact.path)
    return {
        "seconds": time.monotonic() - started,
        "objects": len(sizes),
        "bytes": sum(sizes.values()),
        "bytes of rows/": sum(v for k, v in sizes.items() if k.startswith("rows/")),
        "bytes of ledger/": sum(v for k, v in sizes.items() if k.startswith("ledger/")),
        "planning seconds": times["shard_plan"],
        "progress seconds": times["_done"],
        "finish seconds": times["published"],
        **_rates(ends, rows),
        "driver MiB before": before,
        "driver peak MiB": _peak(),
        "driver bytes/row": (_peak() - before) * _MIB / arguments.rows,
        "worker peak MiB": max(workers),
        "content": artifact.manifest.content_sha256[:16],
    }


def _read(arguments: argparse.Namespace) -> dict[str, Any]:
    path = storage_path(arguments.root) / _STORE
    before = _peak()
    started = time.monotonic()
    store = LatentStore.open(path)
    opened = time.monotonic() - started
    after_open = _peak()
    batch = 2048
    mixture = LatentMixture(
        [store], weights=[1.0], split="train", seed=0, batch=batch, num_lanes=16
    )
    steps = mixture.num_rows // batch
    ends = [_now()]
    batches = mixture.batches(0)
    for _ in range(steps):
        next(batches)
        ends.append(_now())
    batches.close()
    return {
        "open seconds": opened,
        "open MiB": after_open - before,
        "rows of the split": mixture.num_rows,
        **_rates(ends, [batch] * steps),
        "reader MiB before": before,
        "reader peak MiB": _peak(),
    }


def _now() -> tuple[float, float]:
    """Seconds on the wall, and of all CPUs in this process: the latter bear a busy machine."""
    return time.monotonic(), time.process_time()


def _rates(ends: list[tuple[float, float]], rows: list[int]) -> dict[str, Any]:
    """Rows per second of every tenth of the steps, without the wait for the first.

    Args:
        ends: When the first step began, and when each ended.
        rows: Rows of every step.
    """
    seconds, done = np.diff(ends, axis=0)[1:], np.array(rows[1:])
    tenths = np.array_split(np.arange(len(done)), min(10, len(done)))
    wall, cpu = (
        [float(done[part].sum() / seconds[part, clock].sum()) for part in tenths]
        for clock in (0, 1)
    )
    return {
        "seconds to the first": ends[1][0] - ends[0][0],
        "rows/s": float(done.sum() / seconds[:, 0].sum()),
        "rows/s by tenths": wall,
        "last tenth to first": wall[-1] / wall[0],
        "rows/CPU second by tenths": cpu,
        "last to first, CPU": cpu[-1] / cpu[0],
    }


def _site(arguments: argparse.Namespace) -> Site:
    number = arguments.encoders
    return Site(
        root=arguments.root,
        ray=LocalRay(type="local", num_cpus=2) if number else NoRay(type="none"),
        device="cpu", encode_workers=max(1, number), reader_workers=arguments.readers,
    )  # fmt: skip


def _timed(function: Callable[..., Any], name: str, times: dict[str, float]) -> Any:
    def timed(*inputs: Any, **named: Any) -> Any:
        started = time.monotonic()
        result = function(*inputs, **named)
        times[name] = time.monotonic() - started
        return result

    return timed


def _peak() -> float:
    """Most memory that this process has had, in MiB."""
    return _high_water(os.getpid())


def _peak_of_workers() -> float:
    """Most memory that an actor that lives has had, in MiB."""
    actors = [
        child for child in psutil.Process().children(recursive=True)
        if child.name().startswith("ray::") and "IDLE" not in child.name()
    ]  # fmt: skip
    return max((_high_water(actor.pid) for actor in actors), default=0.0)


def _high_water(pid: int) -> float:
    with open(f"/proc/{pid}/status") as lines:
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{each:,.0f}" for each in value)
    return f"{value:,.2f}" if isinstance(value, float) else f"{value}"


_STEPS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "prepare": _prepare,
    "encode": _encode,
    "read": _read,
}

if __name__ == "__main__":
    main()
