"""Logging: one line per event on stderr; stdout is kept for results."""

import logging
import sys

from histodiff.credentials import redacted


class _Redacting(logging.Formatter):
    """Cuts logins and signatures out of the URLs of a line."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def configure_logging(level: int = logging.INFO) -> None:
    """Sends histodiff's log to stderr with a time stamp, and quiets chatty vendors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    root = logging.getLogger("histodiff")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False
