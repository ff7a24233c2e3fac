"""What people and Prometheus see of a running command."""

from histodiff.telemetry.logs import configure_logging
from histodiff.telemetry.progress import Progress, progress
from histodiff.telemetry.server import serve_metrics

__all__ = ["Progress", "configure_logging", "progress", "serve_metrics"]
