"""Share of a training step that all telemetry takes: one run of ``pretrain``, tiny, batch 64, CPU.

``python -m tests.benchmarks.telemetry_overhead [STEPS]`` prints one JSON object. Every call that
the trainer makes to tell somebody something is timed where it is made (wall time: it holds up the
step); what other threads do for it is timed as CPU time, which is the most that it can take from
the step: writing curves and status, and answering a scrape, of which there is one a second. Both
are divided by the wall time of the same steps. A row of metrics is made every fourth step; in
`configs/pretrain/base.yaml` it is every fiftieth.
"""

import json
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from histodiff.cluster.site import NoRay, Site
from histodiff.models.unet import unet_preset
from histodiff.pretraining.monitor import Monitor
from histodiff.telemetry import Background, discovery
from histodiff.training.timing import StepTimer
from histodiff.workflows.pretrain import command as pretrain_workflow
from histodiff.workflows.pretrain import pretrain
from tests.support.ports import free_ports
from tests.support.pretraining import finished_store, tiny_config

BATCH, LOG_STEPS, SCRAPE_SECONDS = 64, 4, 1.0
TOLD = {Monitor: ("step", "row", "validation"), StepTimer: ("tick", "lap")}
"""The calls of a trainer that tell somebody something."""


class Spent:
    """Seconds and calls by name."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def timed(
        self, name: str, function: Callable[..., Any], clock: Callable[[], float]
    ) -> Callable[..., Any]:
        """The function, timed."""

        def call(*arguments: Any, **options: Any) -> Any:
            started = clock()
            try:
                return function(*arguments, **options)
            finally:
                with self._lock:
                    self.seconds[name] += clock() - started
                    self.calls[name] += 1

        return call


def watch(spent: Spent) -> None:
    """Times all telemetry of this process from now on."""
    for owner, names in TOLD.items():
        for name in names:
            timed = spent.timed(name, getattr(owner, name), time.perf_counter)
            setattr(owner, name, timed)
    reporter = pretrain_workflow.reporter

    def timed_reporter(*arguments: Any, **options: Any) -> Callable[..., Any]:
        return spent.timed("bar", reporter(*arguments, **options), time.perf_counter)

    do = Background.do

    def timed_do(self: Background, job: Callable[[], None]) -> None:
        do(self, spent.timed("files", job, time.thread_time))

    pretrain_workflow.reporter = timed_reporter  # type: ignore[attr-defined]
    Background.do = timed_do  # type: ignore[method-assign]
    discovery.generate_latest = spent.timed(  # type: ignore[attr-defined]
        "scrapes", discovery.generate_latest, time.thread_time
    )


@contextmanager
def scraped(port: int) -> Iterator[None]:
    """Asks for the metrics every second, from a thread, as Prometheus would."""
    stop = threading.Event()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def scrape() -> None:
        while not stop.wait(SCRAPE_SECONDS):
            with suppress(OSError):  # before the command serves them, and after
                opener.open(f"http://127.0.0.1:{port}/metrics").read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def measured(num_steps: int, root: Path) -> dict[str, Any]:
    """One run."""
    finished_store(root, moment_shape=(8, 16, 16))
    train = {
        "images": num_steps * BATCH, "batch": BATCH, "micro_batch": BATCH,
        "log_images": LOG_STEPS * BATCH, "checkpoint_images": num_steps * BATCH,
    }  # fmt: skip
    denoiser = {"network": unet_preset("tiny"), "objective": {"type": "edm"}}
    validation = {"images": 4, "bins": 4, "every_images": num_steps * BATCH // 2}
    config = tiny_config(denoiser=denoiser, train=train, validation=validation)
    [port] = free_ports(1)
    site = Site(
        root=str(root), ray=NoRay(type="none"), device="cpu", metrics_port=port, peak_flops=1e12
    )
    spent = Spent()
    watch(spent)
    with scraped(port):
        artifact = pretrain(config, site)
    step_seconds = _step_seconds(artifact.path / "timing.parquet")
    told = {name: spent.seconds[name] for name in sorted(spent.seconds)}
    return {
        "telemetry_share": sum(told.values()) / num_steps / step_seconds,
        "step_seconds": step_seconds,
        "telemetry_seconds_per_step": sum(told.values()) / num_steps,
        "steps": num_steps,
        "seconds": told,
        "calls": dict(spent.calls),
    }


def _step_seconds(timing: Any) -> float:
    """Median wall time of a step, over the rows."""
    rows = pq.read_table(timing.path).to_pylist()
    return statistics.median(row["seconds"] for row in rows[1:]) / LOG_STEPS


if __name__ == "__main__":
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 48
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measured(steps, Path(folder)), indent=2))
