"""Every query of the shipped dashboard uses a metric that telemetry declares."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from histodiff.telemetry import metrics

MONITORING = Path(__file__).resolve().parents[3] / "cluster" / "monitoring"
NAME = re.compile(r"histodiff_[a-z0-9_]+")
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def exported_names() -> set[str]:
    """Names of the series that ``metrics`` gives, as Prometheus sees them."""
    declared = [v for v in vars(metrics).values() if isinstance(v, (Counter, Gauge, Histogram))]
    suffixes = {
        Counter: ("_total",),
        Gauge: ("",),
        Histogram: ("_bucket", "_sum", "_count"),
    }
    return {
        family.name + suffix
        for metric in declared
        for family in metric.describe()
        for suffix in suffixes[type(metric)]
    }


@pytest.mark.parametrize("query", QUERIES)
def test_dashboard_query_uses_declared_metrics(query: str) -> None:
    names = set(NAME.findall(query))
    assert names
    assert names <= exported_names()


def test_dashboard_shows_every_declared_metric() -> None:
    shown = {name for query in QUERIES for name in NAME.findall(query)}
    stems = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in shown}
    declared = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in exported_names()}
    assert declared == stems


def test_dashboard_labels_are_those_of_the_metrics() -> None:
    lists = [found for query in QUERIES for found in re.findall(r"by \(([a-z_, ]+)\)", query)]
    grouped = {label for found in lists for label in found.split(", ")}
    assert grouped <= {"run", "reason", "status", "outcome", "le", "sigma"}


def test_prometheus_config_scrapes_histodiff_and_discovers_ray() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert set(jobs) == {"histodiff", "ray"}
    assert jobs["ray"]["http_sd_configs"][0]["url"].endswith("/api/prometheus/sd")
