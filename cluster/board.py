"""What the ranks of a gang and their driver leave for each other.

An actor that imports next to nothing.
"""

from typing import Any

from histodiff.errors import HistodiffError


class Board:
    """The latest report of rank 0, the first fatal error of any rank, the driver's wish to end."""

    def __init__(self) -> None:
        self._news: Any = None
        self._fatal: HistodiffError | None = None
        self._leaving = False

    def put(self, news: Any) -> None:
        """Replaces the report."""
        self._news = news

    def take(self) -> Any:
        """The report, unless it was taken before."""
        news, self._news = self._news, None
        return news

    def fail(self, error: HistodiffError) -> None:
        """Keeps the error, unless there is one."""
        self._fatal = self._fatal or error

    def fatal(self) -> HistodiffError | None:
        """The error that ended the gang."""
        return self._fatal

    def leave(self) -> None:
        """Asks the ranks to end."""
        self._leaving = True

    def is_leaving(self) -> bool:
        """Whether they are asked to."""
        return self._leaving
