"""Which trials of a sweep were stopped early; known again after the driver was killed.

Every value that a trial reached at a rung is put into the ledger of the Sweep before the trial goes
on or is stopped: the same command again has the same rungs, and leaves stopped trials stopped.
"""

import json
from collections.abc import Mapping, Sequence

from histodiff.cluster.halving import Halving, Standing, rungs_of
from histodiff.cluster.tune import EarlyStopping
from histodiff.storage import StoragePath, list_names, read_bytes, write_bytes
from histodiff.workflows.sweep.config import AshaScheduler, SweepConfig
from histodiff.workflows.sweep.grid import PlannedTrial, candidates_of, is_candidate

_LEDGER = "ledger"


class StoppedTrials:
    """The ledger of the trials that may be stopped, of the sweep at ``path``."""

    def __init__(self, path: StoragePath) -> None:
        self._path = path / _LEDGER
        self._standings = {
            name.removesuffix(".json"): _parsed(read_bytes(self._path / name))
            for name in _names(self._path)
        }

    def stopped(self, trials: Sequence[PlannedTrial]) -> dict[str, float]:
        """Share of the training after which trials were stopped, by address."""
        found = {}
        for trial in trials:
            standing = self._standings.get(trial.config.name)
            if standing is not None and standing.stopped is not None and not trial.chosen:
                found[str(trial.config.output)] = standing.stopped
        return found

    def early(self, config: SweepConfig, trials: Sequence[PlannedTrial]) -> EarlyStopping | None:
        """What stops trials; None where nothing does."""
        scheduler = config.scheduler
        if not isinstance(scheduler, AshaScheduler) or config.choose is None:
            return None
        names = {str(trial.config.output): trial.config.name for trial in trials}
        rivals = {
            str(trial.config.output): f"{candidates_of(config, trial.step, trial.axes).key}"
            f" seed {trial.seed}"
            for trial in trials
            if not trial.chosen and is_candidate(config, trial.step, trial.axes)
        }

        def keep(key: str, standing: Standing) -> None:
            self._standings[names[key]] = standing
            write_bytes(self._path / f"{names[key]}.json", _text(standing))

        halving = Halving(
            rivals,
            rungs=rungs_of(scheduler.grace, scheduler.reduction),
            reduction=scheduler.reduction,
            standings={
                key: self._standings[names[key]] for key in rivals if names[key] in self._standings
            },
            keep=keep,
        )
        return EarlyStopping(halving, config.choose.validation_metric, config.choose.sign)


def _names(folder: StoragePath) -> list[str]:
    return [name for name in list_names(folder) if name.endswith(".json")]


def _text(standing: Standing) -> bytes:
    values = [[rung, value] for rung, value in standing.values.items()]
    record: Mapping[str, object] = {"values": values, "stopped": standing.stopped}
    return (json.dumps(record) + "\n").encode()


def _parsed(text: bytes) -> Standing:
    record = json.loads(text)
    return Standing(dict(record["values"]), record["stopped"])
