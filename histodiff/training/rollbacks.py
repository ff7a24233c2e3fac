"""Going back: which steps a run takes again, and which batches it never sees, after a bad step.

Going back is a function of the losses alone. The training returns to the step before the images
that are to blame, and those batches are never seen: step ``k`` takes the ``k``-th batch that is not
passed over. Which checkpoint it returns to, and whether it was interrupted on the way, changes
nothing. Every rank sees the same loss and decides alike.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from histodiff.storage import StoragePath, write_bytes
from histodiff.training.config import DivergenceConfig, TrainConfig

ROLLBACKS = "rollbacks.json"


@dataclass(frozen=True)
class Rollback:
    """One return to an earlier step."""

    step: int
    """Steps done when it was seen."""
    loss: float
    """The loss that gave rise to it; NaN where it or the gradient was not finite."""
    limit: float
    """The largest loss that would have passed; infinite where leaps are not watched."""
    back_to_step: int
    """Steps done after it."""
    first_batch: int
    """Number of the first batch that is passed over."""
    last_batch: int
    """Number of the last one."""


class RolledBack(Exception):
    """Ends this attempt; the next takes up an earlier checkpoint."""


def batch_of(step: int, passed_over: Collection[int]) -> int:
    """Number of the batch of a step: the step-th one that is not passed over.

    Args:
        step: Steps done before.
        passed_over: Numbers of batches.
    """
    batch = step
    for passed in sorted(passed_over):
        if passed > batch:
            break
        batch += 1
    return batch


def passed_over(rollbacks: Sequence[Rollback]) -> set[int]:
    """Batches that no step takes."""
    before: set[int] = set()
    for rollback in rollbacks:
        before |= set(range(rollback.first_batch, rollback.last_batch + 1))
    return before


def median_steps(config: DivergenceConfig, *, batch: int) -> int:
    """Steps whose losses the watch on leaps needs; 0 where there is none."""
    return 0 if config.spike_factor is None else -(-config.median_images // batch)


def loss_limit(recent: Sequence[float], config: DivergenceConfig, *, batch: int) -> float:
    """The largest loss that is no leap after the losses of the steps before."""
    if config.spike_factor is None or len(recent) < median_steps(config, batch=batch):
        return math.inf
    return config.spike_factor * statistics.median(recent)


def rollback_of(
    step: int, *, loss: float, limit: float, train: TrainConfig, rollbacks: Sequence[Rollback]
) -> Rollback:
    """What to do about the step after ``step`` steps.

    Args:
        step: Steps done before the bad one.
        loss: Its loss.
        limit: What was allowed.
        train: How to train.
        rollbacks: Those before.
    """
    num_batches = -(-train.on_divergence.pass_over_images // train.batch)
    back_to_step = max(step + 1 - num_batches, 0)
    passed = passed_over(rollbacks)
    return Rollback(
        step=step,
        loss=loss if math.isfinite(loss) else math.nan,
        limit=limit,
        back_to_step=back_to_step,
        first_batch=batch_of(back_to_step, passed),
        last_batch=batch_of(step, passed),
    )


def read_rollbacks(folder: StoragePath) -> list[Rollback]:
    """Those of a run so far. One process."""
    path = folder / ROLLBACKS
    if not path.exists():
        return []
    return [Rollback(**values) for values in json.loads(path.read_bytes())]


def write_rollbacks(folder: StoragePath, rollbacks: Sequence[Rollback]) -> None:
    """Replaces the list. One process."""
    rows = [dataclasses.asdict(rollback) for rollback in rollbacks]
    write_bytes(folder / ROLLBACKS, (json.dumps(rows, indent=2) + "\n").encode())
