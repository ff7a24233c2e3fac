"""What the ranks of a gang and their driver leave for each other.

An actor that imports next to nothing: it would unpickle a report only by importing what its class
comes from, torch with it, and hear nothing for seconds. So reports are bytes to it.
"""

import asyncio

from histodiff.errors import HistodiffError


class Mailbox:
    """The latest report of rank 0, the first fatal error of any rank, the driver's wish to end."""

    def __init__(self) -> None:
        self._report: bytes | None = None
        self._fatal: HistodiffError | None = None
        self._leaving = asyncio.Event()

    def put(self, report: bytes) -> None:
        """Replaces the report."""
        self._report = report

    def take(self) -> bytes | None:
        """The report, unless it was taken before."""
        report, self._report = self._report, None
        return report

    def fail(self, error: HistodiffError) -> None:
        """Keeps the error, unless there is one."""
        self._fatal = self._fatal or error

    def fatal(self) -> HistodiffError | None:
        """The error that ended the gang."""
        return self._fatal

    def leave(self) -> None:
        """Asks the ranks to end."""
        self._leaving.set()

    async def until_leaving(self) -> None:
        """Returns when they are asked to: a rank that waits for it hears at once."""
        await self._leaving.wait()
