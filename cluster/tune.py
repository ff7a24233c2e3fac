"""Ray Tune as the machinery of a sweep: trials that read each other's artifacts, each run once.

Trials run in waves: all whose parents are done are one run of Tune, a grid over their keys. Inside
a wave Tune keeps its actors between trials (importing torch costs seconds), starts another actor
for one that was killed, and holds the number at work to a limit. What a trial does is a plain
function given from outside: it writes an artifact and returns nothing; the artifacts are the state
of a sweep, so Tune saves none.

What waves cost: a wave is as long as its slowest trial, even where a trial of the next wave has all
that it reads, and each wave starts actors of its own. A chain of N commands takes N waves.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler

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
_DIED = "its worker died repeatedly"
_STOPPED = "stopped by the scheduler before it ended"


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
    scheduler: TrialScheduler | None = None,
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
            its end. A trial reports to it once, when it ends: there is nothing to stop early yet.
    """
    payloads = {trial.key: trial.payload for trial in trials}
    trainable = tune.with_resources(
        tune.with_parameters(_TrialActor, run=run, payloads=payloads), {"cpu": cpus, "gpu": gpus}
    )
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
) -> dict[str, Outcome]:
    """Runs every trial here, one after the other, in the same waves."""
    ended = _Ended(report)
    for wave in _waves(trials, ended):
        for trial in wave:
            ended.record(trial.key, attempt(run, trial.payload))
    return ended.outcomes


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
class _Ended:
    """The trials that have ended; each is reported once."""

    report: Callable[[Outcome], None]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def record(self, key: str, error: str | None) -> None:
        """Records how a trial ended."""
        self.outcomes[key] = Outcome(key, error)
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
        self._ended.record(trial.config["key"], trial.last_result.get("failure", _STOPPED))

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        self._ended.record(trial.config["key"], _DIED)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks, and a progress bar holds locks."""
        return {}


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
