import re
import urllib.request

import pytest
from prometheus_client import Counter, Gauge, Histogram

from histodiff.errors import ConfigError
from histodiff.telemetry import metrics, serve_metrics

DECLARED = [v for v in vars(metrics).values() if isinstance(v, (Counter, Gauge, Histogram))]
UNITS = (
    r"(seconds|bytes|value|images|patches|slides|rows|requests|resumes|rollbacks|steps"
    r"|images_per_second|ratio)"
)


@pytest.mark.parametrize("family", [metric.describe()[0] for metric in DECLARED])
def test_metric_name_has_area_thing_and_unit_and_says_what_it_is(family) -> None:
    assert re.fullmatch(rf"histodiff_[a-z]+_([a-z_]+_)?{UNITS}", family.name)
    assert family.documentation.endswith(".")


def test_served_metrics_have_what_was_counted() -> None:
    port = serve_metrics(0, address="127.0.0.1")
    before = served(port, "histodiff_tile_patches_total")  # other tests tile too
    metrics.TILE_PATCHES.inc(3)
    assert served(port, "histodiff_tile_patches_total") == before + 3


def served(port: int, name: str) -> float:
    """The value of a metric as Prometheus would scrape it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        text = response.read().decode()
    (value,) = re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(value)


def test_serve_metrics_on_a_taken_port_names_the_setting() -> None:
    port = serve_metrics(0, address="127.0.0.1")
    with pytest.raises(ConfigError, match="metrics_port"):
        serve_metrics(port, address="127.0.0.1")
