"""Small jobs of telemetry in a thread of their own, so that a slow store holds up no step."""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from histodiff.errors import TransientError

_log = logging.getLogger(__name__)


class Background:
    """Does jobs one after the other.

    A job that the storage refuses is warned about, once until another succeeds, and is left out: no
    training ends because its curves cannot be stored. Any other error is raised by the next call.

    Args:
        purpose: What the jobs are for, in the warning.
    """

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="telemetry")
        self._jobs: deque[Future[None]] = deque()
        self._failing = False

    def do(self, job: Callable[[], None]) -> None:
        """Hands over a job."""
        while self._jobs and self._jobs[0].done():
            self._jobs.popleft().result()
        self._jobs.append(self._thread.submit(self._done, job))

    def close(self) -> None:
        """Returns when all jobs are done."""
        self._thread.shutdown()
        while self._jobs:
            self._jobs.popleft().result()

    def _done(self, job: Callable[[], None]) -> None:
        try:
            job()
            self._failing = False
        except (OSError, TransientError) as error:
            if not self._failing:
                _log.warning("%s: not stored: %s", self._purpose, error)
            self._failing = True
