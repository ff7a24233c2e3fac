"""The hub lists every process that announced itself, as Prometheus asks for it."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from histodiff.errors import ConfigError
from histodiff.telemetry import metrics
from histodiff.telemetry.discovery import HubAddress, MetricsHub, announced, metrics_hub

LABELS = {"stage": "encode", "role": "reader"}
OTHER_PROCESS = """
import sys
from histodiff.telemetry.discovery import HubAddress, announced
from histodiff.telemetry.metrics import TILE_PATCHES
hub = HubAddress(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
made = announced(lambda: 42, hub=hub, labels={"stage": "encode", "role": "reader"})
TILE_PATCHES.inc(made)
print("made", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hub() -> Iterator[MetricsHub]:
    hub = MetricsHub(0)
    yield hub
    hub.close()


def get(hub: MetricsHub, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{hub.address.port}{path}") as response:
        return response.read()


def put(hub: MetricsHub, body: bytes) -> int:
    url = f"http://127.0.0.1:{hub.address.port}/targets"
    with urllib.request.urlopen(urllib.request.Request(url, body, method="PUT")) as response:
        return response.status


def test_other_process_is_listed_and_its_metrics_can_be_scraped(hub) -> None:
    address = hub.address
    arguments = [address.host, str(address.port), str(address.pid)]
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"made\n"
        while len(listed := json.loads(get(hub, "/sd"))) < 2:  # bounded by the test's timeout
            assert process.poll() is None
        (target,) = listed[1]["targets"]
        assert listed[1]["labels"] == LABELS
        with urllib.request.urlopen(f"http://{target}/metrics") as response:
            assert b"histodiff_tile_patches_total 42.0" in response.read()
        process.stdin.close()
        process.terminate()


def test_hub_lists_itself_under_the_name_it_is_asked_by(hub) -> None:
    (own,) = hub.listed("node-7")
    assert own == {"targets": [f"node-7:{hub.address.port}"], "labels": {"role": "driver"}}
    metrics.TILE_PATCHES.inc(0)
    assert b"histodiff_tile_patches_total" in get(hub, "/metrics")


def test_loopback_target_is_seen_under_the_name_of_its_host_and_others_as_they_are(hub) -> None:
    hub.heard("127.0.0.1", 5001, LABELS)
    hub.heard("10.0.0.9", 5002, LABELS)
    targets = [each["targets"][0] for each in hub.listed("node-7")[1:]]
    assert sorted(targets) == ["10.0.0.9:5002", "node-7:5001"]


def test_silent_process_is_left_out() -> None:
    hub = MetricsHub(0, silence_seconds=0.0)
    hub.heard("10.0.0.9", 5002, LABELS)
    assert len(hub.listed("node-7")) == 1
    hub.close()


def test_announced_in_the_hub_s_own_process_lists_nothing_more(hub) -> None:
    assert announced(lambda: 1, hub=hub.address, labels=LABELS) == 1
    assert announced(lambda: 2, hub=None, labels=LABELS) == 2
    assert len(hub.listed("node-7")) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b'{"port": 0, "labels": {}}',
        b'{"port": 70000, "labels": {}}',
        b'{"port": 5001, "labels": {"Bad name": "x"}}',
        b'{"port": 5001, "labels": {"role": 3}}',
    ],
)
def test_malformed_announcement_is_refused(hub, body: bytes) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        put(hub, body)
    assert len(hub.listed("node-7")) == 1


def test_announcement_gives_the_port_and_the_connection_the_host(hub) -> None:
    assert put(hub, json.dumps({"port": 5001, "labels": LABELS}).encode()) == 204
    assert hub.listed("node-7")[1] == {"targets": ["node-7:5001"], "labels": LABELS}


def test_taken_port_names_the_setting(hub) -> None:
    with pytest.raises(ConfigError, match="metrics_port"):
        MetricsHub(hub.address.port)


def test_site_without_port_has_no_hub() -> None:
    with metrics_hub(None) as none:
        assert none is None
    with metrics_hub(0) as some:
        assert isinstance(some, HubAddress)
