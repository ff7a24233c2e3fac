"""``sweep``: the labelled chain (guide..classify) over settings and seeds, each artifact once.

Every trial writes an ordinary artifact named ``trial-<step>-<fingerprint>``; Ray Tune runs those
that are not there yet, so the same command again resumes, and sweeps of one root share what they
have in common. The Sweep itself is a table of the trials with the metrics of the classifiers. A
trial that fails is recorded, and what reads it is not run.

With ``choose`` there are two rounds: settings are chosen on validation slides, then the arms are
trained at the chosen ones and scored on the test slides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from histodiff.artifacts import Artifact, CommandConfig, begin, is_finished, open_artifact
from histodiff.artifacts.manifest import UnitIssue
from histodiff.cluster.capacity import largest_node_cpus
from histodiff.cluster.session import ray_session
from histodiff.cluster.site import NoRay, Site
from histodiff.cluster.tune import Outcome, Trial, run_trials, run_trials_in_process
from histodiff.errors import ConfigError
from histodiff.telemetry import progress
from histodiff.workflows.registry import Command, Estimate, find_command, load
from histodiff.workflows.sweep.choice import chosen_settings, write_choices
from histodiff.workflows.sweep.config import Axis, SweepConfig
from histodiff.workflows.sweep.grid import (
    PlannedTrial,
    candidates_of,
    expand,
    expand_chosen,
    is_candidate,
)
from histodiff.workflows.sweep.stopping import StoppedTrials
from histodiff.workflows.sweep.trial_table import TrialRow, trial_row, write_trials

__all__ = ["Axis", "SweepConfig", "estimate", "sweep"]


@dataclass(frozen=True)
class TrialTask:
    """What a worker is given: which command, on what, where."""

    command: Command
    config: CommandConfig
    site: Site


def sweep(config: SweepConfig, site: Site) -> Artifact:
    """Runs every trial that is not finished yet and tabulates them all.

    A finished sweep with failed trials runs those again.

    Raises:
        ConfigError: A trial's config is wrong, or every trial failed.
    """
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    contents = {str(item.reference): item.manifest.content_sha256 for item in inputs.values()}
    trials = expand(config, contents)
    inventory = {str(trial.config.output): trial.command for trial in trials}
    draft = begin(root, config, inputs=inputs, inventory=inventory)
    if draft.finished and not draft.finished.manifest.failed:
        return draft.finished
    with draft:
        ledger = StoppedTrials(draft.path)
        failures = _run(trials, site, ledger, config)
        _require_some(config, trials, failures)
        stopped = ledger.stopped(trials)
        rows = [trial_row(trial, config, root, failures, stopped) for trial in trials]
        choices = chosen_settings(config, rows)
        if config.choose is not None:
            write_choices(draft.path, list(choices.values()))
        final = expand_chosen(config, contents, {key: c.values for key, c in choices.items()})
        if final:
            failures |= _run(final, site, ledger, config)
            rows += [trial_row(trial, config, root, failures) for trial in final]
        write_trials(draft.path, rows, config)
        return draft.finish(
            {
                **_counts(trials),
                "compared": _num_compared(rows),
                "stopped": len(stopped),
                "failed": len(failures),
            },
            failed=[
                UnitIssue(unit=unit, reason="TRIAL_FAILED", detail=text)
                for unit, text in failures.items()
            ],
        )


def estimate(config: SweepConfig, site: Site) -> Estimate:
    """Trials in all, of each step, and how many are done."""
    root = site.storage_root
    contents = {
        str(address): open_artifact(root, address).manifest.content_sha256
        for address in config.inputs().values()
        if is_finished(root, address)
    }
    trials = expand(config, contents)
    done = sum(is_finished(root, trial.config.output) for trial in trials)
    return {
        **_counts(trials),
        **_num_chosen(config, trials),
        "done": done,
        "remaining": len(trials) - done,
    }


def run_trial(task: TrialTask) -> None:
    """Runs one trial, in a worker or here."""
    load(task.command).function(task.config, task.site)


def _require_some(
    config: SweepConfig, trials: Sequence[PlannedTrial], failures: Mapping[str, str]
) -> None:
    """Checks that not every trial failed."""
    if failures and len(failures) == len(trials):
        raise ConfigError(
            f"sweep {config.name}: all {len(trials)} trials failed; the first:"
            f" {next(iter(failures.values()))}"
        )


def _num_compared(rows: Sequence[TrialRow]) -> int:
    return sum(row.arm is not None for row in rows)


def _run(
    trials: Sequence[PlannedTrial], site: Site, ledger: StoppedTrials, config: SweepConfig
) -> dict[str, str]:
    """Runs what is neither finished nor stopped; returns why trials failed, by their address."""
    root = site.storage_root
    stopped = ledger.stopped(trials)
    waiting = [
        trial
        for trial in trials
        if str(trial.config.output) not in stopped and not is_finished(root, trial.config.output)
    ]
    early = ledger.early(config, trials)
    tasks = _tasks(waiting, site)
    already = len(trials) - len(waiting)
    with progress("sweep", total=len(trials), unit="trials", already=already) as bar:

        def report(outcome: Outcome) -> None:
            bar.advance(1, last=f"{outcome.key}{_how(outcome)}")

        if not tasks:
            outcomes: Mapping[str, Outcome] = {}
        elif isinstance(site.ray, NoRay):
            outcomes = run_trials_in_process(tasks, run_trial, report=report, early=early)
        else:
            with ray_session(site.ray):
                outcomes = run_trials(
                    tasks,
                    run_trial,
                    max_concurrent=site.trials,
                    cpus=_threads(waiting),
                    gpus=1 if site.device == "cuda" else 0,
                    report=report,
                    early=early,
                )
    return {key: outcome.error for key, outcome in outcomes.items() if outcome.error is not None}


def _how(outcome: Outcome) -> str:
    if outcome.error is not None:
        return " FAILED"
    return "" if outcome.stopped is None else f" stopped at {outcome.stopped:.0%}"


def _threads(trials: Sequence[PlannedTrial]) -> float:
    """CPUs that Ray reserves for each trial: the threads it uses, as far as a node has them."""
    wanted = max(getattr(trial.config, "threads", 1) for trial in trials)
    return float(max(1, min(wanted, largest_node_cpus())))


def _tasks(waiting: Sequence[PlannedTrial], site: Site) -> list[Trial[TrialTask]]:
    """What Tune is given: trials run in one process each, on the same root."""
    alone = {"ray": NoRay(type="none"), "ranks": 1, "metrics_port": None}
    place = {"root": str(site.storage_root), **alone}
    inner = site.model_copy(update=place)
    unfinished = {str(trial.config.output) for trial in waiting}
    return [
        Trial(
            key=str(trial.config.output),
            payload=TrialTask(find_command(trial.command), trial.config, inner),
            parents=tuple(str(parent) for parent in trial.parents if str(parent) in unfinished),
        )
        for trial in waiting
    ]


def _counts(trials: Sequence[PlannedTrial]) -> Estimate:
    steps = dict.fromkeys(trial.step for trial in trials)
    each = {f"trials_{step}": sum(trial.step == step for trial in trials) for step in steps}
    return {"trials": len(trials), **each}


def _num_chosen(config: SweepConfig, trials: Sequence[PlannedTrial]) -> Estimate:
    """Trials of the second round, which the first decides."""
    if config.choose is None:
        return {}
    candidates = [t for t in trials if is_candidate(config, t.step, t.axes)]
    keys = {(candidates_of(config, t.step, t.axes).key, t.seed) for t in candidates}
    return {"trials_at_chosen_settings": len(keys)}
