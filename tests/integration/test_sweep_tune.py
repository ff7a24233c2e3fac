import os
import signal
import threading

import pytest
from ray.tune.schedulers import FIFOScheduler

from histodiff.cluster.halving import Halving
from histodiff.cluster.session import ray_session
from histodiff.cluster.site import LocalRay, Site
from histodiff.cluster.tune import EarlyStopping, Trial, run_trials
from histodiff.config import parse_config
from histodiff.runtime.interim import offer_interim
from histodiff.workflows import registry
from histodiff.workflows.sweep import SweepConfig, sweep
from histodiff.workflows.sweep.trial_table import read_trials
from tests.support.toy_commands import TOY_COMMANDS, SourceConfig, source

pytestmark = pytest.mark.ray
LOCAL = LocalRay(type="local", num_cpus=2)


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    with ray_session(LOCAL):
        yield


def append(payload):
    path, text, action = payload
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(f"{os.getpid() if action == 'pid' else text}\n")
    if action == "fail":
        raise ValueError("no good")
    if action == "die once":
        marker = f"{path}.{text}.died"
        if not os.path.exists(marker):
            open(marker, "w", encoding="utf-8").close()
            os.kill(os.getpid(), signal.SIGKILL)
    if action == "die":
        os.kill(os.getpid(), signal.SIGKILL)


def run(trials, max_concurrent=1, scheduler=None):
    ended = []
    lock = threading.Lock()  # as a progress bar has

    def report(outcome):
        with lock:
            ended.append(outcome.key)

    outcomes = run_trials(
        trials,
        append,
        max_concurrent=max_concurrent,
        cpus=1,
        gpus=0,
        report=report,
        scheduler=scheduler,
    )
    return outcomes, ended


def test_run_trials_starts_a_trial_after_those_it_reads(tmp_path):
    path = tmp_path / "log"
    trials = [
        Trial("a", (path, "a", "")),
        Trial("b", (path, "b", ""), ("a",)),
        Trial("c", (path, "c", ""), ("b", "a")),
    ]
    outcomes, ended = run(trials, max_concurrent=2)
    assert path.read_text().split() == ["a", "b", "c"] == ended
    assert {outcome.error for outcome in outcomes.values()} == {None}


def test_run_trials_records_a_failure_and_goes_on(tmp_path):
    path = tmp_path / "log"
    trials = [
        Trial("bad", (path, "bad", "fail")),
        Trial("child", (path, "child", ""), ("bad",)),
        Trial("good", (path, "good", "")),
    ]
    outcomes, _ = run(trials)
    assert outcomes["bad"].error == "ValueError: no good"
    assert outcomes["child"].error == "not run, because bad failed"
    assert outcomes["good"].error is None
    assert path.read_text().split() == ["bad", "good"]


def test_run_trials_runs_a_killed_trial_again(tmp_path):
    path = tmp_path / "log"
    outcomes, _ = run([Trial("a", (path, "a", "die once"))])
    assert outcomes["a"].error is None
    assert path.read_text().split() == ["a", "a"]


def test_run_trials_records_a_trial_that_is_killed_every_time(tmp_path):
    path = tmp_path / "log"
    outcomes, ended = run([Trial("a", (path, "a", "die")), Trial("b", (path, "b", ""), ("a",))])
    assert outcomes["a"].error == "its worker died repeatedly"
    assert outcomes["b"].error == "not run, because a failed"
    assert path.read_text().split() == ["a"] * 3
    assert ended == ["a", "b"]


class Watching(FIFOScheduler):
    def __init__(self):
        super().__init__()
        self.completed = []

    def on_trial_complete(self, tune_controller, trial, result):
        self.completed.append(trial.config["key"])


def test_run_trials_of_one_wave_share_a_process_and_tell_the_scheduler(tmp_path):
    path = tmp_path / "log"
    watching = Watching()
    run([Trial(key, (path, key, "pid")) for key in "abc"], scheduler=watching)
    pids = path.read_text().split()
    assert len(pids) == 3
    assert len(set(pids)) == 1
    assert watching.completed == ["a", "b", "c"]


def offering(payload):
    path, name, values = payload
    for step, value in enumerate(values, start=1):
        offer_interim(step / len(values), lambda value=value: {"val_auc": value})
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(f"{name}\n")


def test_run_trials_stops_those_that_fall_behind_and_uses_the_actor_again(tmp_path):
    path = tmp_path / "log"
    kept = {}
    halving = Halving(
        dict.fromkeys("abcd", "group"), rungs=(0.25, 0.5), reduction=2, standings={},
        keep=kept.__setitem__,
    )  # fmt: skip
    values = {"a": 3.0, "b": 2.0, "c": 4.0, "d": 3.5, "free": 0.0}
    ended = []
    outcomes = run_trials(
        [Trial(key, (path, key, [value] * 8)) for key, value in values.items()],
        offering,
        max_concurrent=1,
        cpus=1,
        gpus=0,
        report=lambda outcome: ended.append(outcome.key),
        early=EarlyStopping(halving, "val_auc", 1),
    )
    assert path.read_text().split() == ["a", "c", "d", "free"]
    assert {key: outcome.stopped for key, outcome in outcomes.items()} == {
        "a": None, "b": 0.25, "c": None, "d": None, "free": None,
    }  # fmt: skip
    assert {outcome.error for outcome in outcomes.values()} == {None}
    assert ended == list(values)
    assert kept["b"].stopped == 0.25
    assert kept["c"].values == {0.25: 4.0, 0.5: 4.0}


CHOICE = {"choose": {"axes": ["scale"], "metric": "accuracy"},
          "scheduler": {"type": "asha", "grace": 0.25, "reduction": 2}}  # fmt: skip


@pytest.mark.parametrize("chosen", [{}, CHOICE], ids=["plain", "asha"])
def test_sweep_on_ray_equals_the_sweep_in_process(tmp_path, monkeypatch, chosen):
    for name, command in TOY_COMMANDS.items():
        monkeypatch.setitem(registry.COMMANDS, name, command)
    config = parse_config(
        SweepConfig,
        {
            "name": "s",
            "version": "1",
            "artifacts": {"tiles": "patches/t@1"},
            "steps": {
                "guide": {"command": "guide", "config": {"scale": 1}, "from": {"patches": "tiles"}},
                "real": {
                    "command": "classify",
                    "config": {"count": 2},
                    "from": {"patches": "tiles", "guide": "guide"},
                },
            },
            "search": {"scale": {"sets": ["guide.scale"], "values": [1.0, 2.0]}},
            "seeds": [0, 1],
            "arms": [{"label": "real only", "step": "real"}],
            "control": "real only",
            **chosen,
        },
        source="s.yaml",
    )
    tables = []
    for folder, ray in (("ray", LOCAL), ("here", {"type": "none"})):
        site = Site(root=str(tmp_path / folder), ray=ray, device="cpu", trials=1 if chosen else 2)
        source(SourceConfig(name="t", version="1", text="x"), site)
        tables.append(read_trials(sweep(config, site).path))
    assert tables[0] == tables[1]
    assert len(tables[0]) == (10 if chosen else 8)
