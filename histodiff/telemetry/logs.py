"""Logging: one line per event on stderr; stdout is kept for results."""

import logging
import sys


def configure_logging(level: int = logging.INFO) -> None:
    """Sends histodiff's log to stderr with a time stamp, and quiets chatty vendors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    root = logging.getLogger("histodiff")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False
