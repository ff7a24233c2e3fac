"""What people and Prometheus see of a running command."""

from histodiff.telemetry.background import Background
from histodiff.telemetry.discovery import HubAddress, announce, announced, metrics_hub
from histodiff.telemetry.live import LiveStatus, now_utc, read_live, write_live
from histodiff.telemetry.logs import configure_logging
from histodiff.telemetry.progress import Progress, progress
from histodiff.telemetry.server import serve_metrics

__all__ = [
    "Background",
    "HubAddress",
    "LiveStatus",
    "Progress",
    "announce",
    "announced",
    "configure_logging",
    "metrics_hub",
    "now_utc",
    "progress",
    "read_live",
    "serve_metrics",
    "write_live",
]
