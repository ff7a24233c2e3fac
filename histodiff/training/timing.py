"""Wall time of training steps, for metrics and the timing table."""

import time

from histodiff.telemetry import metrics
from histodiff.training.ranks import rank
from histodiff.training.records import TimingRow


class StepTimer:
    """Times steps; rank 0 counts the images of all.

    Args:
        run: Name of the run in metrics.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._tick = self._lap = time.perf_counter()
        self._waited = self._lap_waited = 0.0

    def tick(self, images: int, *, waited_seconds: float) -> None:
        """Counts a step of ``images`` images, which waited so long for its batch."""
        now = time.perf_counter()
        seconds = now - self._tick
        if rank() == 0:
            metrics.TRAIN_IMAGES.labels(run=self._run).inc(images)
            metrics.TRAIN_IMAGES_PER_SECOND.labels(run=self._run).set(images / seconds)
        metrics.TRAIN_STEP_SECONDS.labels(run=self._run).observe(seconds)
        metrics.TRAIN_DATA_WAIT_SECONDS.labels(run=self._run).inc(waited_seconds)
        self._tick, self._waited = now, self._waited + waited_seconds

    def lap(self, step: int) -> TimingRow:
        """The time since the last lap."""
        row = TimingRow(step, self._tick - self._lap, self._waited - self._lap_waited)
        self._lap, self._lap_waited = self._tick, self._waited
        return row
