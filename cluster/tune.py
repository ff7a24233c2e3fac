"""Ray Tune as the machinery of a sweep: trials that read each other's artifacts, each run once.

A trial names the trials it reads; Tune starts it when they are done, keeps its actors between
trials (importing torch costs seconds), starts another actor for one that was killed, and holds the
number at work to a limit. What a trial does is a plain function given from outside: it writes an
artifact and returns nothing; the artifacts are the state of a sweep, so Tune saves none.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ray import tune
from ray.tune.search import Searcher

from histodiff.cluster.environment import environment
from histodiff.errors import HistodiffError

_log = logging.getLogger(__name__)

PayloadT = TypeVar("PayloadT")

_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard file per trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C interrupts at once; artifacts make it resumable
    "RAY_AIR_NEW_OUTPUT": "0",
}
_ACTOR_RESTARTS = 2


@dataclass(frozen=True)
class Trial(Generic[PayloadT]):
    """One trial: its key, what its function is given, and the keys of the trials it reads."""

    key: str
    payload: PayloadT
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; ``error`` is None for one that succeeded."""

    key: str
    error: str | None


def run_trials(
    trials: Sequence[Trial[PayloadT]],
    run: Callable[[PayloadT], None],
    *,
    max_concurrent: int,
    cpus: float,
    gpus: float,
    report: Callable[[Outcome], None],
) -> dict[str, Outcome]:
    """Runs every trial on the Ray that this process is connected to.

    Args:
        trials: The trials, each after those that it reads.
        run: Does one trial; pickled to the actors.
        max_concurrent: Trials at work at the same time.
        cpus: CPUs that Ray reserves for each trial.
        gpus: GPUs that Ray reserves for each trial.
        report: Called in this process as each trial ends.
    """
    order = _Dependencies(trials, report)
    payloads = {trial.key: trial.payload for trial in trials}
    trainable = tune.with_resources(
        tune.with_parameters(_TrialActor, run=run, payloads=payloads), {"cpu": cpus, "gpu": gpus}
    )
    with environment(_QUIET), tempfile.TemporaryDirectory(prefix="histodiff-tune-") as scratch:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Suggestions(order),
                num_samples=len(trials),
                max_concurrent_trials=max_concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="trials",
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=_ACTOR_RESTARTS),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
    order.give_up_on_the_rest()
    return order.outcomes


def run_trials_in_process(
    trials: Sequence[Trial[PayloadT]],
    run: Callable[[PayloadT], None],
    *,
    report: Callable[[Outcome], None],
) -> dict[str, Outcome]:
    """Runs every trial here, one after the other, with the same rules."""
    order = _Dependencies(trials, report)
    payloads = {trial.key: trial.payload for trial in trials}
    while (key := order.take()) is not None:
        order.finish(key, attempt(run, payloads[key]))
    return order.outcomes


def attempt(run: Callable[[PayloadT], None], payload: PayloadT) -> str | None:
    """Runs one trial; returns why it failed, or None.

    A trial that fails is data, like a bad slide: it is recorded, and the other trials go on.
    """
    try:
        run(payload)
    except HistodiffError as error:
        return str(error)
    except Exception as error:
        _log.exception("a trial failed")
        return f"{type(error).__name__}: {error}"
    return None


@dataclass
class _Dependencies(Generic[PayloadT]):
    """Which trial may start next. A trial whose parent failed is never started."""

    trials: Sequence[Trial[PayloadT]]
    report: Callable[[Outcome], None]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)

    def take(self) -> str | None:
        """A trial whose parents are done, now counted as started; None if there is none now."""
        self._drop_orphans()
        for trial in self.trials:
            if trial.key not in self.started and set(trial.parents) <= set(self.outcomes):
                self.started.add(trial.key)
                return trial.key
        return None

    def finish(self, key: str, error: str | None) -> None:
        """Records how a trial ended."""
        self.outcomes[key] = Outcome(key, error)
        self.report(self.outcomes[key])

    def exhausted(self) -> bool:
        """Whether every trial has started."""
        return len(self.started) == len(self.trials)

    def give_up_on_the_rest(self) -> None:
        """Records trials that never ended as failed."""
        self._drop_orphans()
        for trial in self.trials:
            if trial.key not in self.outcomes:
                self.finish(trial.key, "its worker died repeatedly")

    def _drop_orphans(self) -> None:
        for trial in self.trials:  # parents come first, so one pass reaches grandchildren
            failed = [key for key in trial.parents if self._has_failed(key)]
            if failed and trial.key not in self.started:
                self.started.add(trial.key)
                self.finish(trial.key, f"not run, because {failed[0]} failed")

    def _has_failed(self, key: str) -> bool:
        return key in self.outcomes and self.outcomes[key].error is not None


class _Suggestions(Searcher):  # type: ignore[misc]
    """Tune's search algorithm: suggests the key of a trial as soon as its parents are done."""

    def __init__(self, order: _Dependencies[Any]) -> None:
        super().__init__()
        self._order = order
        self._keys: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, str] | str | None:
        key = self._order.take()
        if key is None:
            return str(Searcher.FINISHED) if self._order.exhausted() else None
        self._keys[trial_id] = key
        return {"key": key}

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        died = "its worker died repeatedly" if error or result is None else None
        self._order.finish(self._keys[trial_id], died or (result or {}).get("failure"))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the artifacts are the state of a sweep."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the artifacts are the state of a sweep."""


class _TrialActor(tune.Trainable):  # type: ignore[misc]
    """Tune's actor: runs one trial after the other."""

    def setup(
        self,
        config: Mapping[str, str],
        run: Callable[[Any], None],
        payloads: Mapping[str, Any],
    ) -> None:
        self._key, self._run, self._payloads = config["key"], run, payloads

    def step(self) -> dict[str, Any]:
        return {"failure": attempt(self._run, self._payloads[self._key]), "done": True}

    def reset_config(self, new_config: Mapping[str, str]) -> bool:
        self._key = new_config["key"]
        return True
