"""Wall time of training steps, for metrics and the timing table."""

import time

from histodiff.pretraining.records import TimingRow
from histodiff.telemetry import metrics


class StepTimer:
    """Times steps; rank 0 counts the images of all.

    Args:
        run: Name of the run in metrics.
        rank: This rank.
    """

    def __init__(self, run: str, *, rank: int) -> None:
        self._run, self._rank = run, rank
        self._tick = self._lap = time.perf_counter()
        self._waited = self._lap_waited = 0.0

    def tick(self, images: int, waited_seconds: float) -> None:
        """Counts a step of ``images`` images."""
        now = time.perf_counter()
        seconds = now - self._tick
        if self._rank == 0:
            metrics.TRAIN_IMAGES.labels(run=self._run).inc(images)
            metrics.TRAIN_IMAGES_PER_SECOND.labels(run=self._run).set(images / seconds)
        metrics.TRAIN_STEP_SECONDS.labels(run=self._run).observe(seconds)
        metrics.TRAIN_DATA_WAIT_SECONDS.labels(run=self._run).inc(waited_seconds - self._waited)
        self._tick, self._waited = now, waited_seconds

    def lap(self, step: int) -> TimingRow:
        """The time since the last lap."""
        row = TimingRow(step, self._tick - self._lap, self._waited - self._lap_waited)
        self._lap, self._lap_waited = self._tick, self._waited
        return row
