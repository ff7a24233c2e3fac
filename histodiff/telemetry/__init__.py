"""What people and Prometheus see of a running command."""

from histodiff.telemetry.discovery import HubAddress, announce, announced, metrics_hub
from histodiff.telemetry.logs import configure_logging
from histodiff.telemetry.progress import Progress, progress
from histodiff.telemetry.server import serve_metrics

__all__ = [
    "HubAddress",
    "Progress",
    "announce",
    "announced",
    "configure_logging",
    "metrics_hub",
    "progress",
    "serve_metrics",
]
