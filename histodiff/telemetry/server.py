"""Serves ``/metrics`` of this process for Prometheus."""

import logging

from prometheus_client import start_http_server

from histodiff.errors import ConfigError

_log = logging.getLogger(__name__)


def serve_metrics(port: int, *, address: str = "0.0.0.0") -> int:
    """Starts serving in a daemon thread; returns the port. Port 0 takes a free one.

    Raises:
        ConfigError: The port is taken.
    """
    try:
        server, _ = start_http_server(port, addr=address)
    except OSError as error:
        raise ConfigError(
            f"metrics port {port}: {error.strerror}; set another `metrics_port`"
        ) from error
    _log.info("metrics at http://%s:%d/metrics", address, server.server_port)
    return int(server.server_port)
