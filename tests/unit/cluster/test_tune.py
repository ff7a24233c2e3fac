"""The rules by which trials start, in process; on Ray: tests/integration/test_sweep_tune.py."""

from histodiff.cluster.tune import Outcome, Trial, run_trials_in_process
from histodiff.errors import ConfigError


def ran(trials, *, failing=()):
    """Keys in the order they ran, and the outcomes as they were reported."""
    order, reported = [], []

    def work(key):
        order.append(key)
        if key in failing:
            raise ConfigError(f"{key} is wrong")

    outcomes = run_trials_in_process(trials, work, report=reported.append)
    assert list(outcomes.values()) == reported
    return order, reported


def trial(key, *parents):
    return Trial(key, key, parents)


def test_trials_run_in_waves_of_those_whose_parents_are_done():
    trials = [trial("a"), trial("a1", "a"), trial("a2", "a1", "a"), trial("b"), trial("b1", "b")]
    order, reported = ran(trials)
    assert order == ["a", "b", "a1", "b1", "a2"]
    assert {outcome.error for outcome in reported} == {None}


def test_nothing_below_a_failed_trial_runs_and_each_says_why():
    trials = [
        trial("bad"),
        trial("good"),
        trial("child", "good", "bad"),
        trial("grandchild", "child"),
        trial("other", "good"),
    ]
    order, reported = ran(trials, failing={"bad"})
    assert order == ["bad", "good", "other"]
    assert sorted(reported, key=lambda outcome: outcome.key) == [
        Outcome("bad", "bad is wrong"),
        Outcome("child", "not run, because bad failed"),
        Outcome("good", None),
        Outcome("grandchild", "not run, because child failed"),
        Outcome("other", None),
    ]


def test_no_trials_have_no_outcomes():
    assert ran([]) == ([], [])
