"""How Prometheus finds every process of a run, on any number of nodes, with no written targets.

The driver of a command serves a *hub* at the site's ``metrics_port``: its own ``/metrics``, and
``/sd``, the list that Prometheus' ``http_sd_configs`` asks for. Ranks and actors serve ``/metrics``
at free ports and announce them to the hub again and again; who falls silent is left out of the
list. A process can announce ports of its own host only, as the host is taken from the connection,
and only with the token of the run, which travels with the hub's address. Hub and processes listen
on the loopback interface, unless the site names another.
"""

import hmac
import http.client
import ipaddress
import json
import logging
import os
import re
import secrets
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from histodiff.errors import ConfigError
from histodiff.telemetry.server import (
    LOOPBACK,
    BoundedServer,
    MetricsHandler,
    serve_metrics,
)

ANNOUNCE_SECONDS = 15.0
SILENCE_SECONDS = 60.0
"""Who has not announced itself for so long is gone."""
MAX_TARGETS = 10_000
_MAX_BODY_BYTES = 4096
_MAX_LABELS = 8
_TIMEOUT_SECONDS = 5.0
_LABEL = re.compile(r"[a-z][a-z0-9_]{0,31}")
_VALUE = re.compile(r"[\w.@:/ -]{0,64}")
_ANYWHERE = ("0.0.0.0", "::", "")
_NOWHERE = ("192.0.2.1", 9)
"""An address of RFC 5737; nothing is sent to it."""
_log = logging.getLogger(__name__)

MadeT = TypeVar("MadeT")


@dataclass(frozen=True)
class HubAddress:
    """Where a hub listens, and which process it lives in; picklable."""

    host: str
    """The machine's address towards others."""
    port: int
    pid: int
    listens_on: str
    """Address of the interface: loopback, one of the machine, or all (0.0.0.0)."""
    token: str = field(repr=False)
    """Lets a process announce itself."""

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of the same machine reach it."""
        return self.listens_on == "localhost" or _is_loopback(self.listens_on)


@dataclass(frozen=True)
class _Target:
    """A process that serves metrics."""

    labels: Mapping[str, str]
    heard: float


class MetricsHub:
    """Serves this process's metrics and the list of all processes that announced themselves.

    Args:
        port: Port to listen on; 0 takes a free one.
        host: Address of the interface to listen on.
        silence_seconds: After how long without a word a process is left out.

    Raises:
        ConfigError: The port is taken, or the machine has no such address.
    """

    def __init__(
        self, port: int, *, host: str = LOOPBACK, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self._silence = silence_seconds
        self._targets: dict[tuple[str, int], _Target] = {}
        self._lock = threading.Lock()
        try:
            self._server = BoundedServer(host, port, _handler_of(self))
        except OSError as error:
            raise ConfigError(
                f"metrics_port {port} at {host}: {error.strerror}; set another `metrics_port` (or"
                " `metrics_host`) of the site"
            ) from error
        self.address = HubAddress(
            host=_own_host(), port=self._server.server_port, pid=os.getpid(),
            listens_on=host, token=secrets.token_hex(16),
        )  # fmt: skip
        self._server.serve_in_thread("hub")
        _log.info("metrics at http://%s:%d/metrics", host, self.address.port)

    def admits(self, authorization: str | None) -> bool:
        """Whether a header shows the token of the run."""
        expected = f"Bearer {self.address.token}"
        return hmac.compare_digest((authorization or "").encode(), expected.encode())

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
def metrics_hub(port: int | None, *, host: str = LOOPBACK) -> Iterator[HubAddress | None]:
    """A hub for the time of a command; none where the site has no ``metrics_port``."""
    if port is None:
        yield None
        return
    hub = MetricsHub(port, host=host)
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
    """Serves this process's metrics at a free port and keeps telling ``hub``, from a thread.

    A process that cannot is warned about, and works on.
    """
    if hub is None or (hub.pid == os.getpid() and hub.host == _own_host()):
        return
    if hub.is_loopback and hub.host != _own_host():
        _log.warning(
            "metrics of this process are not announced: it runs on another machine than the driver,"
            " whose metrics_port is for its own alone; set `metrics_host` of the site to 0.0.0.0"
        )
        return
    try:
        port = serve_metrics(0, address=_interface_towards(hub))
        body = json.dumps({"port": port, "labels": dict(labels)}).encode()
        threading.Thread(
            target=_keep_telling, args=(hub, body), name="announce", daemon=True
        ).start()
    except (ConfigError, OSError, RuntimeError) as error:
        _log.warning("metrics of this process are not served: %s", error)


def _interface_towards(hub: HubAddress) -> str:
    """Where a process listens: as its hub does, with the address that it has in that network."""
    if hub.is_loopback or hub.listens_on in _ANYWHERE:
        return hub.listens_on
    return _own_host((hub.listens_on, hub.port))


def _keep_telling(hub: HubAddress, body: bytes) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    host = hub.host if hub.listens_on in _ANYWHERE else hub.listens_on
    url = f"http://{_in_url(host)}:{hub.port}/targets"
    headers = {"Authorization": f"Bearer {hub.token}"}
    silent = False
    while True:
        try:
            request = urllib.request.Request(url, data=body, method="PUT", headers=headers)
            opener.open(request, timeout=_TIMEOUT_SECONDS).close()
            silent = False
        except (OSError, http.client.HTTPException) as error:
            if not silent:
                _log.warning("metrics of this process are not announced to %s: %s", url, error)
            silent = True
        time.sleep(ANNOUNCE_SECONDS)


def _handler_of(hub: MetricsHub) -> type[MetricsHandler]:
    class Handler(MetricsHandler):
        def do_GET(self) -> None:
            if self.path != "/sd":
                super().do_GET()
                return
            asked_as = self.headers.get("Host", "").rpartition(":")[0] or LOOPBACK
            self.answer(200, "application/json", json.dumps(hub.listed(asked_as)).encode())

        def do_PUT(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not hub.admits(self.headers.get("Authorization")):
                self.answer(403, "text/plain", b"the token of the run is needed\n")
            elif not (length.isascii() and length.isdigit()):
                self.answer(411, "text/plain", b"Content-Length is needed\n")
            elif len(length) > 9 or int(length) > _MAX_BODY_BYTES:
                self.answer(413, "text/plain", b"too long\n")
            else:
                self._take(self.rfile.read(int(length)))

        def _take(self, body: bytes) -> None:
            told = _told(body)
            if self.path != "/targets" or told is None:
                self.answer(400, "text/plain", b"PUT /targets {port, labels}\n")
                return
            hub.heard(self.client_address[0], *told)
            self.answer(204, "text/plain", b"")

    return Handler


def _told(body: bytes) -> tuple[int, dict[str, str]] | None:
    """Port and labels of an announcement; None where it is none."""
    try:
        values = json.loads(body)
        port, labels = int(values["port"]), dict(values["labels"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    good = len(labels) <= _MAX_LABELS and all(
        _LABEL.fullmatch(name) and isinstance(text, str) and _VALUE.fullmatch(text)
        for name, text in labels.items()
    )
    return (port, labels) if good and 0 < port < 2**16 else None


def _seen_from(host: str, asked_as: str) -> str:
    """A target's host for one who knows this machine as ``asked_as``."""
    return asked_as if _is_loopback(host) else _in_url(host)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _own_host(towards: tuple[str, int] = _NOWHERE) -> str:
    """This machine's address towards others; loopback where it has none."""
    family = socket.AF_INET6 if ":" in towards[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(towards)
        except OSError:
            return LOOPBACK
        return str(probe.getsockname()[0])
