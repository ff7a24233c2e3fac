"""Ray Tune as the machinery of a sweep: trials that read each other's artifacts, each run once.

Trials run in waves: all whose parents are done are one run of Tune, a grid over their keys. Inside
a wave Tune keeps its actors between trials (importing torch costs seconds), starts another actor
for one that was killed, and holds the number at work to a limit. What a trial does is a plain
function given from outside: it writes an artifact and returns nothing; the artifacts are the state
of a sweep, so Tune saves none.

Trials that may be stopped early run in a thread of their actor, so that Tune sees a result at every
rung and its scheduler decides (``halving``); the training waits for that. In process the same rule
decides at once.

What waves cost: a wave is as long as its slowest trial, even where a trial of the next wave has all
that it reads, and each wave starts actors of its own. A chain of N commands takes N waves.
"""

import logging
import queue
import tempfile
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from histodiff.cluster.environment import environment
from histodiff.cluster.halving import Halving
from histodiff.errors import ConfigError, HistodiffError
from histodiff.runtime.interim import Listener, Measure, StoppedEarly, listening

_log = logging.getLogger(__name__)

PayloadT = TypeVar("PayloadT")

_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard file per trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C interrupts at once; artifacts make it resumable
    "RAY_AIR_NEW_OUTPUT": "0",
}
_ACTOR_RESTARTS = 2
_DIED = "its worker died repeatedly"
_STOPPED = "stopped by the scheduler before it ended"
_RUNG, _VALUE = "rung", "value"
"""Keys of an interim result."""


@dataclass(frozen=True)
class Trial(Generic[PayloadT]):
    """One trial: its key, what its function is given, and the keys of the trials it reads."""

    key: str
    payload: PayloadT
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; ``error`` is None for one that succeeded, or was stopped."""

    key: str
    error: str | None
    stopped: float | None = None
    """Share of the training after which it was stopped; None for one that ran to its end."""


@dataclass(frozen=True)
class EarlyStopping:
    """Which trials are stopped early, and by which of their metrics."""

    halving: Halving
    metric: str
    sign: int
    """1 where more is better, -1 where less is."""


def run_trials(
    trials: Sequence[Trial[PayloadT]],
    run: Callable[[PayloadT], None],
    *,
    max_concurrent: int,
    cpus: float,
    gpus: float,
    report: Callable[[Outcome], None],
    scheduler: TrialScheduler | None = None,
    early: EarlyStopping | None = None,
) -> dict[str, Outcome]:
    """Runs every trial on the Ray that this process is connected to.

    Args:
        trials: The trials, each after those that it reads.
        run: Does one trial; pickled to the actors.
        max_concurrent: Trials at work at the same time.
        cpus: CPUs that Ray reserves for each trial.
        gpus: GPUs that Ray reserves for each trial.
        report: Called in this process as each trial ends.
        scheduler: Decides for Tune which trials go on, one for all waves; None runs every trial to
            its end, or until ``early`` stops it.
        early: Stops trials at the rungs of successive halving.
    """
    payloads = {trial.key: trial.payload for trial in trials}
    rungs = {trial.key: early.halving.rungs_left(trial.key) for trial in trials} if early else {}
    interim = (early.metric, early.sign) if early else None
    trainable = tune.with_resources(
        tune.with_parameters(_TrialActor, run=run, payloads=payloads, rungs=rungs, interim=interim),
        {"cpu": cpus, "gpu": gpus},
    )
    if scheduler is None and early is not None:
        scheduler = _HalvingScheduler(early.halving)
    config = tune.TuneConfig(
        max_concurrent_trials=max_concurrent, reuse_actors=True, scheduler=scheduler
    )
    ended = _Ended(report)
    for wave in _waves(trials, ended):
        _run_wave(trainable, wave, config, ended)
    return ended.outcomes


def run_trials_in_process(
    trials: Sequence[Trial[PayloadT]],
    run: Callable[[PayloadT], None],
    *,
    report: Callable[[Outcome], None],
    early: EarlyStopping | None = None,
) -> dict[str, Outcome]:
    """Runs every trial here, one after the other, in the same waves."""
    ended = _Ended(report)
    for wave in _waves(trials, ended):
        for trial in wave:
            listener = _JudgingHere(trial.key, early) if early else None
            with listening(listener):
                error = attempt(run, trial.payload)
            stopped = early.halving.standing(trial.key).stopped if early else None
            ended.record(trial.key, error, stopped)
    return ended.outcomes


def attempt(run: Callable[[PayloadT], None], payload: PayloadT) -> str | None:
    """Runs one trial; returns why it failed, or None.

    A trial that fails is data, like a bad slide: it is recorded, and the other trials go on.
    """
    try:
        run(payload)
    except StoppedEarly:
        return None
    except HistodiffError as error:
        return str(error)
    except Exception as error:
        _log.exception("a trial failed")
        return f"{type(error).__name__}: {error}"
    return None


@dataclass
class _Ended:
    """The trials that have ended; each is reported once."""

    report: Callable[[Outcome], None]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def record(self, key: str, error: str | None, stopped: float | None = None) -> None:
        """Records how a trial ended."""
        self.outcomes[key] = Outcome(key, error, stopped)
        self.report(self.outcomes[key])

    def failed(self, keys: Sequence[str]) -> list[str]:
        """Those of ``keys`` that failed."""
        return [k for k in keys if k in self.outcomes and self.outcomes[k].error is not None]


def _waves(trials: Sequence[Trial[PayloadT]], ended: _Ended) -> Iterator[Sequence[Trial[PayloadT]]]:
    """The trials in waves; the caller runs a wave before it asks for the next.

    A trial whose parent failed is in no wave: it is recorded as not run.
    """
    waiting = list(trials)
    while waiting:
        wave = [trial for trial in waiting if ended.outcomes.keys() >= set(trial.parents)]
        assert wave, "a trial reads one that is not among the trials"
        yield wave
        for trial in wave:
            if trial.key not in ended.outcomes:
                ended.record(trial.key, _DIED)
        unended = [trial for trial in waiting if trial.key not in ended.outcomes]
        waiting = _without_orphans(unended, ended)


def _without_orphans(trials: Sequence[Trial[PayloadT]], ended: _Ended) -> list[Trial[PayloadT]]:
    """The trials none of whose parents failed; the others are recorded as not run."""
    kept = []
    for trial in trials:  # parents come first, so one pass reaches grandchildren
        if failed := ended.failed(trial.parents):
            ended.record(trial.key, f"not run, because {failed[0]} failed")
        else:
            kept.append(trial)
    return kept


def _run_wave(
    trainable: type[tune.Trainable],
    wave: Sequence[Trial[Any]],
    config: tune.TuneConfig,
    ended: _Ended,
) -> None:
    """Runs one wave: one run of Tune, which records each trial as it ends."""
    with environment(_QUIET), tempfile.TemporaryDirectory(prefix="histodiff-tune-") as scratch:
        tune.Tuner(
            trainable,
            param_space={"key": tune.grid_search([trial.key for trial in wave])},
            tune_config=config,
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="trials",
                verbose=0,
                callbacks=[_Recorder(ended)],
                failure_config=tune.FailureConfig(max_failures=_ACTOR_RESTARTS),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


class _Recorder(tune.Callback):  # type: ignore[misc]
    """Tells the driver, in its process, how each trial ended."""

    def __init__(self, ended: _Ended) -> None:
        self._ended = ended

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        key, last = trial.config["key"], trial.last_result
        if "failure" in last:
            self._ended.record(key, last["failure"])
        elif _RUNG in last:
            self._ended.record(key, None, last[_RUNG])
        else:
            self._ended.record(key, _STOPPED)

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        self._ended.record(trial.config["key"], _DIED)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks, and a progress bar holds locks."""
        return {}


class _HalvingScheduler(FIFOScheduler):  # type: ignore[misc]
    """Tune's scheduler that asks the rungs."""

    def __init__(self, halving: Halving) -> None:
        super().__init__()
        self._halving = halving

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        if _RUNG not in result:
            return str(TrialScheduler.CONTINUE)
        good = self._halving.goes_on(trial.config["key"], result[_RUNG], result[_VALUE])
        return str(TrialScheduler.CONTINUE if good else TrialScheduler.STOP)


class _AtRungs(Listener):
    """Measures once at each rung that is left."""

    def __init__(self, rungs: Sequence[float], metric: str, sign: int) -> None:
        self._rungs, self._metric, self._sign = list(rungs), metric, sign

    def offer(self, share: float, measure: Measure) -> None:
        reached = [rung for rung in self._rungs if share >= rung]
        if reached:
            self._rungs = [rung for rung in self._rungs if rung > share]
            measured = measure()
            if self._metric not in measured:
                raise ConfigError(
                    f"choose.metric: {self._metric} is not defined on these validation patches, so"
                    " no trial can be stopped by it; take another metric, or scheduler: none"
                )
            self.judge(reached[-1], self._sign * measured[self._metric])

    @abstractmethod
    def judge(self, rung: float, value: float) -> None:
        """Returns if the training goes on after a rung; raises StoppedEarly if not."""


class _JudgingHere(_AtRungs):
    """Asks the rungs in this process."""

    def __init__(self, key: str, early: EarlyStopping) -> None:
        super().__init__(early.halving.rungs_left(key), early.metric, early.sign)
        self._key, self._halving = key, early.halving

    def judge(self, rung: float, value: float) -> None:
        if not self._halving.goes_on(self._key, rung, value):
            raise StoppedEarly


class _Attempt(_AtRungs):
    """A trial in a thread: gives results one by one, and waits to be told to go on after each."""

    def __init__(
        self, run: Callable[[], None], rungs: Sequence[float], metric: str, sign: int
    ) -> None:
        super().__init__(rungs, metric, sign)
        self._results: queue.Queue[dict[str, Any]] = queue.Queue()
        self._told: queue.Queue[bool] = queue.Queue()
        self._thread = threading.Thread(target=self._attempt, args=(run,), daemon=True)
        self._begun = False

    def next_result(self) -> dict[str, Any]:
        """Lets the trial go on until its next result, the last of which is ``done``."""
        if self._begun:
            self._told.put(True)
        else:
            self._begun = True
            self._thread.start()
        return self._results.get()

    def end(self) -> None:
        """Stops the trial where it waits, if it does, and returns when it has ended."""
        if self._begun:
            self._told.put(False)
            self._thread.join()

    def judge(self, rung: float, value: float) -> None:
        self._results.put({_RUNG: rung, _VALUE: value, "done": False})
        if not self._told.get():
            raise StoppedEarly

    def _attempt(self, run: Callable[[], None]) -> None:
        with listening(self):
            failure = attempt(lambda _: run(), None)
        self._results.put({"failure": failure, "done": True})


class _TrialActor(tune.Trainable):  # type: ignore[misc]
    """Tune's actor: runs one trial after the other."""

    def setup(
        self,
        config: Mapping[str, str],
        run: Callable[[Any], None],
        payloads: Mapping[str, Any],
        rungs: Mapping[str, Sequence[float]],
        interim: tuple[str, int] | None,
    ) -> None:
        self._key, self._run, self._payloads = config["key"], run, payloads
        self._rungs, self._interim = rungs, interim
        self._current: _Attempt | None = None

    def step(self) -> dict[str, Any]:
        rungs = self._rungs.get(self._key, ())
        if not rungs or self._interim is None:
            return {"failure": attempt(self._run, self._payloads[self._key]), "done": True}
        if self._current is None:
            payload = self._payloads[self._key]
            self._current = _Attempt(lambda: self._run(payload), rungs, *self._interim)
        return self._current.next_result()

    def reset_config(self, new_config: Mapping[str, str]) -> bool:
        self._end()
        self._key = new_config["key"]
        return True

    def cleanup(self) -> None:
        self._end()

    def _end(self) -> None:
        if self._current is not None:
            self._current.end()
            self._current = None
