"""Training of a small model in this process: guides and classifiers.

The caller gives the loss of step ``k`` as a pure function of ``k``; the loop, the clock, the
averages and the checkpoints are those of every training. Torch's generators are seeded anew for
every step, so dropout is covered too and a resumed run equals an undisturbed one exactly.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from histodiff.runtime import Notice, derived_seed
from histodiff.storage import StoragePath
from histodiff.telemetry import Progress, progress
from histodiff.training.config import OptimizationConfig
from histodiff.training.engine import MicroLoss, StepResult
from histodiff.training.local_engine import LocalEngine
from histodiff.training.randomness import seed_torch
from histodiff.training.records import MetricsRow
from histodiff.training.state import TrainingState
from histodiff.training.trainer import Trainer


def fit(
    module: torch.nn.Module,
    *,
    loss: Callable[[int], torch.Tensor],
    config: OptimizationConfig,
    seed: int,
    checkpoints: StoragePath,
    run: str,
) -> list[MetricsRow]:
    """Trains ``module`` in place and returns the rows of metrics, those of earlier runs included.

    Parameters with ``requires_grad=False`` stay as they are. The caller sets train or eval mode.
    With ``config.ema`` the module ends up with the first of the averages.

    Args:
        module: What is trained; lies on its device already.
        loss: Scalar loss of step ``k`` (from 0): a pure function of the module and ``k``.
        config: How to train.
        seed: Seeds torch's generators before every step (dropout and the like).
        checkpoints: Folder of the checkpoints.
        run: Name on the progress bar and in metrics.

    Raises:
        TrainingDiverged: The loss or the gradient of a step is not finite.
    """
    with _own_random_state(module):
        state = TrainingState(
            LocalEngine(module, config=config),
            config=config,
            checkpoints=checkpoints,
            run=run,
            notice=lambda: Notice.NONE,
        )
        state.resume()
        steps, already = config.num_steps, state.step
        with progress(run, total=steps, unit="steps", already=already) as bar:
            trainer = _SmallTrainer(state, run=run, loss=loss, seed=seed, bar=bar)
            try:
                trainer.run()
            finally:
                trainer.close()
    _use_average(state)
    return state.records.metrics


class _SmallTrainer(Trainer[int]):
    """A batch is the number of its step: the loss makes the rest of it."""

    def __init__(
        self,
        state: TrainingState,
        *,
        run: str,
        loss: Callable[[int], torch.Tensor],
        seed: int,
        bar: Progress,
    ) -> None:
        super().__init__(state, run=run)
        self._loss, self._seed, self._bar = loss, seed, bar
        self._device = next(state.engine.module.parameters()).device

    def batches(self) -> AbstractContextManager[Iterator[int]]:
        return nullcontext(iter(range(self.state.step, self.state.config.num_steps)))

    def losses(self, batch: int) -> Sequence[MicroLoss]:
        seed_torch(derived_seed(self._seed, "fit", batch), device=self._device)
        return [lambda module: self._loss(batch)]

    def report(self, result: StepResult) -> None:
        self._bar.advance(1, loss=result.loss)


def _use_average(state: TrainingState) -> None:
    """Puts the first average, if there is one, into the module."""
    if state.averages.parts:
        with torch.no_grad():
            masters = state.engine.masters()
            for master, average in zip(masters, state.averages.parts[0], strict=True):
                master.copy_(average)


def _own_random_state(module: torch.nn.Module) -> AbstractContextManager[None]:
    """Keeps the caller's random state as it was."""
    devices = {p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"}
    return torch.random.fork_rng(devices=sorted(devices))
