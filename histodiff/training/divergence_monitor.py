"""The divergence monitor: it stops a run or has it go back when its loss leaps or is not finite."""

import logging
import math
from dataclasses import asdict
from typing import NoReturn

from histodiff.errors import TrainingDiverged
from histodiff.telemetry import metrics
from histodiff.training import ranks
from histodiff.training.checkpoints import discard_checkpoints
from histodiff.training.config import TrainConfig
from histodiff.training.engine import StepResult
from histodiff.training.rollbacks import (
    Rollback,
    RolledBack,
    batch_of,
    loss_limit,
    median_steps,
    passed_over,
    read_rollbacks,
    rollback_of,
    write_rollbacks,
)
from histodiff.training.state import TrainingState

_log = logging.getLogger(__name__)


class DivergenceMonitor:
    """Looks at every step on one rank; every rank sees the same losses and decides alike.

    Args:
        state: What is trained.
        config: How it is trained.
        run: Name of the run in metrics.
    """

    def __init__(self, state: TrainingState, *, config: TrainConfig, run: str) -> None:
        self._state, self._train, self._run = state, config, run
        self._config = config.on_divergence
        self._folder = state.checkpoints
        before = read_rollbacks(self._folder) if ranks.rank() == 0 else []
        told = ranks.broadcast([asdict(rollback) for rollback in before])
        self.rollbacks = [Rollback(**values) for values in told]
        """Those of the run so far."""

    @property
    def num_recent(self) -> int:
        """How many of the last losses it looks at."""
        return median_steps(self._config, batch=self._train.batch)

    def batch_of(self, step: int) -> int:
        """Number of the batch of a step: some are passed over after a rollback."""
        return batch_of(step, passed_over(self.rollbacks))

    def require_sound(self, result: StepResult) -> None:
        """Ends the attempt where the step went wrong.

        Raises:
            TrainingDiverged: The loss leapt, or it or the gradient became non-finite.
            RolledBack: It did, and the next attempt is to pass over some images.
        """
        batch = self._train.batch
        limit = loss_limit(self._state.records.recent, self._config, batch=batch)
        finite = math.isfinite(result.loss) and (math.isfinite(result.grad_norm) or result.skipped)
        if finite and result.loss <= limit:
            return
        used_up = len(self.rollbacks) >= self._config.max_rollbacks
        if self._config.action == "stop" or used_up:
            raise TrainingDiverged(self._state.step, self._state.last_checkpoint)
        self._roll_back(result.loss if finite else math.nan, limit)

    def _roll_back(self, loss: float, limit: float) -> NoReturn:
        """Has the next attempt pass over what made the loss leap."""
        state = self._state
        rollback = rollback_of(
            state.step, loss=loss, limit=limit, train=self._train, rollbacks=self.rollbacks
        )
        state.wait()
        discard_checkpoints(self._folder, after=rollback.back_to_step)
        if ranks.rank() == 0:
            write_rollbacks(self._folder, [*self.rollbacks, rollback])
        ranks.barrier()
        _log.warning(
            "loss %s at step %d (limit %s): back to step %d, batches %d to %d are passed over",
            loss, rollback.step, limit, rollback.back_to_step,
            rollback.first_batch, rollback.last_batch,
        )  # fmt: skip
        metrics.TRAIN_ROLLBACKS.labels(run=self._run).inc()
        raise RolledBack
