"""How Prometheus finds every process of a run, on any number of nodes, with no written targets.

The driver of a command serves a *hub* at the site's ``metrics_port``: its own ``/metrics``, and
``/sd``, the list that Prometheus' ``http_sd_configs`` asks for. Ranks and actors serve ``/metrics``
at free ports and announce them to the hub again and again; who falls silent is left out of the
list. A process can announce ports of its own host only: the host is taken from the connection.
"""

import json
import logging
import os
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from histodiff.errors import ConfigError
from histodiff.telemetry.server import serve_metrics

ANNOUNCE_SECONDS = 15.0
SILENCE_SECONDS = 60.0
"""Who has not announced itself for so long is gone."""
MAX_TARGETS = 10_000
_MAX_BODY_BYTES = 4096
_TIMEOUT_SECONDS = 5.0
_LABEL = re.compile(r"[a-z][a-z0-9_]{0,31}")
_NOWHERE = ("192.0.2.1", 9)
"""An address of RFC 5737; nothing is sent to it."""
_log = logging.getLogger(__name__)

MadeT = TypeVar("MadeT")


@dataclass(frozen=True)
class HubAddress:
    """Where a hub listens, and which process it lives in; picklable."""

    host: str
    port: int
    pid: int


@dataclass(frozen=True)
class _Target:
    """A process that serves metrics."""

    labels: Mapping[str, str]
    heard: float


class MetricsHub:
    """Serves this process's metrics and the list of all processes that announced themselves.

    Args:
        port: Port to listen on; 0 takes a free one.
        silence_seconds: After how long without a word a process is left out.

    Raises:
        ConfigError: The port is taken.
    """

    def __init__(self, port: int, *, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._silence = silence_seconds
        self._targets: dict[tuple[str, int], _Target] = {}
        self._lock = threading.Lock()
        try:
            self._server = ThreadingHTTPServer(("0.0.0.0", port), _handler_of(self))
        except OSError as error:
            raise ConfigError(
                f"metrics_port {port}: {error.strerror}; set another `metrics_port` of the site"
            ) from error
        self._server.daemon_threads = True
        self.address = HubAddress(_own_host(), self._server.server_port, os.getpid())
        threading.Thread(target=self._server.serve_forever, name="hub", daemon=True).start()
        _log.info("metrics at http://%s:%d/metrics", self.address.host, self.address.port)

    def heard(self, host: str, port: int, labels: Mapping[str, str]) -> None:
        """Takes an announcement."""
        with self._lock:
            if len(self._targets) < MAX_TARGETS or (host, port) in self._targets:
                self._targets[host, port] = _Target(dict(labels), time.monotonic())

    def listed(self, asked_as: str) -> list[dict[str, object]]:
        """The list for Prometheus.

        Args:
            asked_as: Host by which the one who asks knows this machine; stands for loopback.
        """
        since = time.monotonic() - self._silence
        with self._lock:
            self._targets = {k: v for k, v in self._targets.items() if v.heard >= since}
            found = sorted(self._targets.items())
        own: dict[str, object] = {
            "targets": [f"{asked_as}:{self.address.port}"],
            "labels": {"role": "driver"},
        }
        others: list[dict[str, object]] = [
            {"targets": [f"{_seen_from(host, asked_as)}:{port}"], "labels": dict(target.labels)}
            for (host, port), target in found
        ]
        return [own, *others]

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def metrics_hub(port: int | None) -> Iterator[HubAddress | None]:
    """A hub for the time of a command; none where the site has no ``metrics_port``."""
    if port is None:
        yield None
        return
    hub = MetricsHub(port)
    try:
        yield hub.address
    finally:
        hub.close()


def announced(
    make: Callable[[], MadeT], *, hub: HubAddress | None, labels: Mapping[str, str]
) -> MadeT:
    """What ``make`` gives, in a process whose metrics Prometheus finds from now on.

    Args:
        make: Makes a worker; ``partial(announced, make, ...)`` makes it in its actor's process.
        hub: The hub of the run; nothing is announced without one, nor from its own process.
        labels: Labels of the target, such as ``{"stage": "encode", "role": "reader"}``.
    """
    announce(hub, labels)
    return make()


def announce(hub: HubAddress | None, labels: Mapping[str, str]) -> None:
    """Serves this process's metrics at a free port and keeps telling ``hub``, from a thread."""
    if hub is None or (hub.pid == os.getpid() and hub.host == _own_host()):
        return
    body = json.dumps({"port": serve_metrics(0), "labels": dict(labels)}).encode()
    url = f"http://{hub.host}:{hub.port}/targets"
    threading.Thread(target=_keep_telling, args=(url, body), name="announce", daemon=True).start()


def _keep_telling(url: str, body: bytes) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    silent = False
    while True:
        try:
            request = urllib.request.Request(url, data=body, method="PUT")
            opener.open(request, timeout=_TIMEOUT_SECONDS).close()
            silent = False
        except OSError as error:
            if not silent:
                _log.warning("metrics of this process are not announced to %s: %s", url, error)
            silent = True
        time.sleep(ANNOUNCE_SECONDS)


def _handler_of(hub: MetricsHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
            elif self.path == "/sd":
                asked_as = self.headers.get("Host", "127.0.0.1").rpartition(":")[0]
                listed = json.dumps(hub.listed(asked_as or "127.0.0.1"))
                self._answer(200, "application/json", listed.encode())
            else:
                self._answer(404, "text/plain", b"/metrics or /sd\n")

        def do_PUT(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            told = _told(self.rfile.read(min(length, _MAX_BODY_BYTES)))
            if self.path != "/targets" or told is None:
                self._answer(400, "text/plain", b"PUT /targets {port, labels}\n")
                return
            hub.heard(self.client_address[0], *told)
            self._answer(204, "text/plain", b"")

        def log_message(self, format: str, *args: object) -> None:
            del format, args

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _told(body: bytes) -> tuple[int, dict[str, str]] | None:
    """Port and labels of an announcement; None where it is none."""
    try:
        values = json.loads(body)
        port, labels = int(values["port"]), dict(values["labels"])
    except (ValueError, KeyError, TypeError):
        return None
    good = all(_LABEL.fullmatch(name) and isinstance(text, str) for name, text in labels.items())
    return (port, labels) if good and 0 < port < 2**16 else None


def _seen_from(host: str, asked_as: str) -> str:
    """A target's host for one who knows this machine as ``asked_as``."""
    return asked_as if host == "127.0.0.1" else host


def _own_host() -> str:
    """This machine's address towards others; loopback where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_NOWHERE)
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
