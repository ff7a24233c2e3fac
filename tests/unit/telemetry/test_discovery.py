"""The hub lists every process that announced itself, as Prometheus asks for it."""

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from itertools import chain, repeat

import pytest

from histodiff.cluster.site import NoRay, Site
from histodiff.errors import ConfigError
from histodiff.telemetry import metrics, server
from histodiff.telemetry.discovery import HubAddress, MetricsHub, announced, metrics_hub

LABELS = {"stage": "encode", "role": "reader"}
OTHER_PROCESS = """
import json, sys
from histodiff.telemetry.discovery import HubAddress, announced
from histodiff.telemetry.metrics import TILE_PATCHES
hub = HubAddress(**json.loads(sys.argv[1]))
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


def put(hub: MetricsHub, body: bytes, *, token: str | None = None) -> int:
    url = f"http://127.0.0.1:{hub.address.port}/targets"
    headers = {"Authorization": f"Bearer {token or hub.address.token}"}
    request = urllib.request.Request(url, body, method="PUT", headers=headers)
    with urllib.request.urlopen(request) as response:
        return response.status


@contextmanager
def connected(hub: MetricsHub) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", hub.address.port), timeout=10) as connection:
        yield connection


def send(connection: socket.socket, pieces: Iterable[bytes], *, pause: float = 0.0) -> None:
    for piece in pieces:
        connection.sendall(piece)
        time.sleep(pause)


def test_other_process_is_listed_and_its_metrics_can_be_scraped(hub) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, json.dumps(asdict(hub.address))],
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
        b'{"port": 5001, "labels": {"role": "a\\nb"}}',
        b'{"port": 5001, "labels": {"role": "' + 65 * b"x" + b'"}}',
        json.dumps({"port": 5001, "labels": {f"a{n}": "x" for n in range(9)}}).encode(),
        b'{"port": Infinity, "labels": {}}',
        b'{"port": NaN, "labels": {}}',
        2000 * b"[",
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


def test_announcement_without_the_token_of_the_run_is_refused(hub) -> None:
    body = json.dumps({"port": 5001, "labels": LABELS}).encode()
    for token in ("0" * 32, "ä"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            put(hub, body, token=token)
    assert len(hub.listed("node-7")) == 1
    assert hub.address.token not in repr(hub.address)


@pytest.mark.parametrize("length", ["-1", "+5", "1_0", "99999", "9" * 30, "²"])
def test_length_that_no_announcement_has_is_refused_unread(hub, length: str) -> None:
    head = f"PUT /targets HTTP/1.0\r\nAuthorization: Bearer {hub.address.token}\r\n"
    with connected(hub) as connection:
        connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode("latin-1"))
        with connection.makefile("rb") as answer:
            assert answer.readline().split()[1] in (b"411", b"413")
        with pytest.raises(OSError):  # nobody reads on
            send(connection, repeat(bytes(2**20), 64))


def test_hundreds_of_idle_connections_keep_nobody_out_and_hold_few_threads(hub) -> None:
    before = threading.active_count()
    with ExitStack() as idle:
        for _ in range(200):
            idle.enter_context(connected(hub))
        assert b"histodiff_tile_patches_total" in get(hub, "/metrics")
        while threading.active_count() > before + server.MAX_CONNECTIONS:  # the test's timeout
            time.sleep(0.01)


def test_client_that_sends_a_byte_now_and_then_is_cut_off(hub, monkeypatch) -> None:
    monkeypatch.setattr(server, "CONNECTION_SECONDS", 0.3)
    with connected(hub) as slow, pytest.raises(OSError):
        send(slow, chain([b"GET /sd"], repeat(b"x")), pause=0.05)


def test_hub_listens_on_loopback_unless_the_site_says_otherwise(hub) -> None:
    site = Site(root="runs", ray=NoRay(type="none"), device="cpu")
    assert site.metrics_host == "127.0.0.1" == hub.address.listens_on
    outside = hub.address.host
    if outside != "127.0.0.1":
        with pytest.raises(OSError):
            socket.create_connection((outside, hub.address.port), timeout=2)


@pytest.mark.parametrize("port", [-1, 65536])
def test_site_refuses_ports_that_do_not_exist(port: int) -> None:
    with pytest.raises(ValueError, match="metrics_port"):
        Site(root="runs", ray=NoRay(type="none"), device="cpu", metrics_port=port)


@pytest.mark.parametrize("host", ["192.0.2.7", "no such host", "::7"])
def test_address_of_no_interface_names_the_setting(host: str) -> None:
    with pytest.raises(ConfigError, match="metrics_host"):
        MetricsHub(0, host=host)


def test_worker_on_another_machine_than_a_loopback_hub_works_on_unannounced(hub, caplog) -> None:
    elsewhere = replace(hub.address, host="192.0.2.8", pid=0)
    assert announced(lambda: 7, hub=elsewhere, labels=LABELS) == 7
    assert len(hub.listed("node-7")) == 1


def test_worker_whose_metrics_cannot_be_served_works_on(hub, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(server.BoundedServer, "server_bind", full)
    assert announced(lambda: 7, hub=replace(hub.address, pid=0), labels=LABELS) == 7
