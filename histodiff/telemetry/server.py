"""Serves ``/metrics`` of this process for Prometheus, in threads that no client can hold for long.

Whoever reaches the port may be anybody, and a training runs beside it: connections, their time and
what they may send are bounded, and whatever goes wrong ends one answer and nothing else.
"""

import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from histodiff.errors import ConfigError

LOOPBACK = "127.0.0.1"
MAX_CONNECTIONS = 16
"""Connections at a time; one more closes the oldest."""
SILENT_SECONDS = 5.0
"""How long a client may send nothing."""
CONNECTION_SECONDS = 15.0
"""How long a connection may last, whatever is sent."""
_BREATH_SECONDS = 0.1
_log = logging.getLogger(__name__)


class MetricsHandler(BaseHTTPRequestHandler):
    """Answers ``/metrics``; more is for sub-classes."""

    timeout = SILENT_SECONDS

    def do_GET(self) -> None:
        """``/metrics`` of this process."""
        if self.path == "/metrics":
            self.answer(200, CONTENT_TYPE_LATEST, generate_latest())
        else:
            self.answer(404, "text/plain", b"/metrics\n")

    def answer(self, status: int, content_type: str, body: bytes) -> None:
        """Sends a whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: who asks is of no interest."""
        del format, args


class BoundedServer(ThreadingHTTPServer):
    """A server of few, short connections.

    Args:
        host: Address to listen on.
        port: Port; 0 takes a free one.
        handler: Answers one request.

    Raises:
        OSError: The address cannot be listened on.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._since: dict[socket.socket, float] = {}
        self._guard = threading.Lock()
        super().__init__((host, port), handler)

    def serve_in_thread(self, name: str) -> None:
        """Serves until it is shut down."""
        threading.Thread(target=self.serve_forever, name=name, daemon=True).start()

    def server_bind(self) -> None:
        """Binds, without asking a name server who this machine is."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection; where there are no files left for it, it is tried again soon."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_BREATH_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread; the oldest connection makes room."""
        with self._guard:
            while len(self._since) >= MAX_CONNECTIONS:
                self._end(next(iter(self._since)))
            self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection that was answered, or could not be."""
        with self._guard:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Ends connections that have lasted too long."""
        before = time.monotonic() - CONNECTION_SECONDS
        with self._guard:
            for request in [each for each, since in self._since.items() if since < before]:
                self._end(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What goes wrong in an answer is between the client and us."""
        _log.debug("metrics: no answer to %s", client_address, exc_info=True)

    def _end(self, request: socket.socket) -> None:
        del self._since[request]
        try:
            request.shutdown(socket.SHUT_RDWR)  # its thread wakes, and closes it
        except OSError:  # the client was quicker
            return


def serve_metrics(port: int, *, address: str = LOOPBACK) -> int:
    """Starts serving in a daemon thread; returns the port. Port 0 takes a free one.

    Raises:
        ConfigError: The port is taken.
    """
    try:
        server = BoundedServer(address, port, MetricsHandler)
    except OSError as error:
        raise ConfigError(
            f"metrics port {port}: {error.strerror}; set another `metrics_port`"
        ) from error
    server.serve_in_thread("metrics")
    _log.info("metrics at http://%s:%d/metrics", address, server.server_port)
    return server.server_port
