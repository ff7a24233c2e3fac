"""A real Prometheus finds every metric of a running pre-training, from both of its ranks."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from histodiff.telemetry import metrics
from tests.support.ports import free_ports
from tests.support.pretraining import finished_store, tiny_config
from tests.support.prometheus import SHIPPED, Prometheus, running_prometheus

pytestmark = [pytest.mark.ray, pytest.mark.slow]

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 400.0
RANKS = ("0", "1")
SUFFIXES = {Counter: "_total", Gauge: "", Histogram: "_count"}
FROM_FIRST_RANK = {"histodiff_train_images_total", "histodiff_train_throughput_images_per_second"}
"""What counts all ranks together."""
BINS = 3

Found = Mapping[str, Mapping[str, float]]
"""Values by metric and rank; of labelled ones the last."""


def declared() -> set[str]:
    """Names of all metrics of training, as Prometheus has them."""
    return {
        family.name + SUFFIXES[type(metric)]
        for metric in vars(metrics).values()
        if isinstance(metric, tuple(SUFFIXES))
        for family in metric.describe()
        if family.name.startswith("histodiff_train_")
    }


def dashboard_queries() -> list[str]:
    """What the dashboard asks of training."""
    panels = json.loads((SHIPPED.parent / "dashboard.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    return [query for query in asked if "histodiff_train_" in query]


@contextmanager
def running_pretrain(folder: Path, *, metrics_port: int) -> Iterator["subprocess.Popen[str]"]:
    """The command on two ranks of Ray, in fp16, for longer than anyone waits."""
    finished_store(folder / "runs")
    train = {"images": 10**7, "precision": "fp16", "log_images": 16, "checkpoint_images": 512}
    config = tiny_config("watched", train=train).model_dump(mode="json")
    site = {
        "root": str(folder / "runs"), "ray": {"type": "local", "num_cpus": 2}, "device": "cpu",
        "ranks": 2, "metrics_port": metrics_port, "peak_flops": 1e12,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    command = [sys.executable, "-m", "histodiff", "pretrain", str(folder / "config.yaml")]
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [*command, "--site", str(folder / "site.yaml")],
            cwd=REPOSITORY, stdout=said, stderr=said, text=True,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        )  # fmt: skip
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=300)


def scraped(prometheus: Prometheus) -> Found:
    """Every metric of training that came through the ranks' own targets."""
    found: dict[str, dict[str, float]] = {}
    for series in prometheus.query('{__name__=~"histodiff_train_.*", role="rank"}'):
        labels = series["metric"]
        found.setdefault(labels["__name__"], {})[labels["rank"]] = float(series["value"][1])
    return found


def missing(found: Found) -> list[str]:
    """What has not been scraped yet; a histogram counts once it has observed something."""
    return sorted(
        f"{name} of rank {rank}"
        for name in declared()
        for rank in (RANKS[:1] if name in FROM_FIRST_RANK else RANKS)
        if rank not in found.get(name, {}) or (name.endswith("_count") and found[name][rank] == 0)
    )


def unanswered(prometheus: Prometheus) -> list[str]:
    """Queries of the dashboard that show nothing yet."""
    return [
        query
        for query in dashboard_queries()
        if not any(math.isfinite(float(s["value"][1])) for s in prometheus.query(query))
    ]


def test_prometheus_finds_every_metric_of_training_from_both_ranks(tmp_path):
    [metrics_port] = free_ports(1)
    with (
        running_prometheus(tmp_path / "prometheus", hub_port=metrics_port) as prometheus,
        running_pretrain(tmp_path, metrics_port=metrics_port) as training,
    ):
        deadline, left = time.monotonic() + DEADLINE_SECONDS, ["everything"]
        while left and time.monotonic() < deadline:
            found = scraped(prometheus)
            left = missing(found) or unanswered(prometheus)
            with pytest.raises(subprocess.TimeoutExpired):  # else it has ended by itself
                training.wait(timeout=1)
        assert not left, (tmp_path / "said.txt").read_text()[-3000:]
        bins = prometheus.query('histodiff_train_validation_loss_value{run="watched@1"}')
        wait_share = prometheus.query(
            "rate(histodiff_train_data_wait_seconds_total[1m])"
            " / rate(histodiff_train_step_duration_seconds_sum[1m])"
        )
        for name in sorted(declared()):
            print(name, *(f"rank {rank}: {value:g}" for rank, value in sorted(found[name].items())))
        for query in dashboard_queries():
            print(query, "->", [series["value"][1] for series in prometheus.query(query)])
    assert training.returncode == 143, (tmp_path / "said.txt").read_text()[-3000:]
    sigmas = {rank: {s["metric"]["sigma"] for s in bins if s["metric"]["rank"] == rank}
              for rank in RANKS}  # fmt: skip
    assert sigmas["0"] == sigmas["1"]
    assert len(sigmas["0"]) == BINS
    assert {series["metric"]["rank"] for series in wait_share} == set(RANKS)
    assert all(0 <= float(series["value"][1]) < 1 for series in wait_share)
    for rank in RANKS:
        assert 0 < found["histodiff_train_mfu_ratio"][rank] < 1
        assert found["histodiff_train_peak_memory_bytes"][rank] > 50e6
        assert 0 < found["histodiff_train_learning_rate_value"][rank] <= 2e-3
        assert found["histodiff_train_resumes_total"][rank] == 0
        assert found["histodiff_train_seen_images"][rank] % 16 == 0
