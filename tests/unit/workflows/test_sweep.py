from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from histodiff.artifacts import Reference, open_artifact
from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.errors import ArtifactNotFound, ConfigError
from histodiff.workflows import registry
from histodiff.workflows.sweep import SweepConfig, command, sweep
from histodiff.workflows.sweep.choice import read_choices
from histodiff.workflows.sweep.grid import expand
from histodiff.workflows.sweep.trial_table import read_trials
from tests.support import toy_commands
from tests.support.toy_commands import TOY_COMMANDS, SourceConfig, source

STEPS = {
    "guide": {
        "command": "guide",
        "config": {"scale": 1.0, "seed": 0},
        "from": {"patches": "tiles"},
    },
    "real": {
        "command": "classify",
        "config": {"seed": 0, "count": 2},
        "from": {"patches": "tiles"},
    },
    "random": {
        "command": "classify",
        "config": {"seed": 0, "count": 2, "ratio": 1.0},
        "from": {"patches": "tiles", "guide": "guide"},
    },
}
VALUES = {
    "name": "s",
    "version": "dev",
    "artifacts": {"tiles": "patches/t@1"},
    "steps": STEPS,
    "search": {
        "scale": {"sets": ["guide.scale"], "values": [1.0, 3.0]},
        "ratio": {"sets": ["random.ratio"], "values": [0.5, 1.0]},
        "count": {"sets": ["real.count", "random.count"], "values": [2, 5]},
    },
    "seeds": [0, 1, 2],
    "arms": [{"label": "real only", "step": "real"}, {"label": "random", "step": "random"}],
    "control": "real only",
}


@pytest.fixture(autouse=True)
def use_toy_commands(monkeypatch):
    for name, toy in TOY_COMMANDS.items():
        monkeypatch.setitem(registry.COMMANDS, name, toy)


def config(**changed):
    return parse_config(SweepConfig, {**VALUES, **changed}, source="s.yaml")


def test_expand_multiplies_a_step_only_by_axes_that_reach_it():
    trials = expand(config(), {})
    counts = {step: sum(t.step == step for t in trials) for step in STEPS}
    assert counts == {"guide": 2 * 3, "real": 2 * 3, "random": 2 * 2 * 2 * 3}


def test_expand_sets_other_values_alongside_an_axis():
    axis = {"sets": ["real.count", "random.count"], "values": [2, 5],
            "alongside": {"random.ratio": [4.0, 1.5]}}  # fmt: skip
    trials = expand(config(search={"count": axis}), {})
    found = {(t.config.count, t.config.ratio) for t in trials if t.step == "random"}
    assert found == {(2, 4.0), (5, 1.5)}
    assert {t.config.ratio for t in trials if t.step == "real"} == {0.0}


def test_expand_makes_every_artifact_once_and_parents_first():
    trials = expand(config(), {})
    outputs = [trial.config.output for trial in trials]
    assert len(set(outputs)) == len(outputs)
    for place, trial in enumerate(trials):
        assert all(outputs.index(parent) < place for parent in trial.parents)


def test_expand_pairs_a_trial_with_the_parent_at_the_same_point():
    trials = {trial.config.output: trial for trial in expand(config(), {})}
    for trial in trials.values():
        for parent in trial.parents:
            assert trials[parent].seed == trial.seed
            assert trials[parent].axes["scale"] == trial.axes["scale"]


def test_expand_names_depend_on_the_content_that_is_read():
    names = {str(t.config.output) for t in expand(config(), {"patches/t@1": "aa"})}
    other = {str(t.config.output) for t in expand(config(), {"patches/t@1": "bb"})}
    assert not names & other


def test_expand_names_stay_when_the_grid_grows():
    names = {str(t.config.output) for t in expand(config(), {})}
    more = {str(t.config.output) for t in expand(config(seeds=[0, 1, 2, 3]), {})}
    assert names < more


def test_expand_with_a_wrong_field_names_step_and_key():
    wrong = {"scale": {"sets": ["guide.scala"], "values": [1.0]}}
    with pytest.raises(ConfigError, match=r"sweep s: step 'guide'.*scala.*'scale'"):
        expand(config(search=wrong), {})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"search": {"a": {"sets": ["gide.scale"], "values": [1]}}},
            "must begin with a step: guide",
        ),
        ({"search": {"a": {"sets": ["guide.scale"], "values": [1, 1]}}}, "give each value once"),
        (
            {
                "search": {
                    "a": {"sets": ["guide.scale"], "values": [1], "alongside": {"x.y": [1, 2]}}
                }
            },
            "alongside.x.y has 2 values, values 1",
        ),
        ({"artifacts": {"tiles": "t@1"}}, "write it as kind/name@version"),
        ({"control": "none"}, "control: 'none' is none of arms: real only, random"),
        ({"arms": [{"label": "real only", "step": "reel"}]}, "'reel' is no step"),
        ({"seeds": [1, 1]}, "give each seed once"),
        ({"scheduler": {"type": "asha"}}, "asha stops settings of a choice; add `choose`"),
        ({"tested": ["all"]}, "tested: 'all' is none of arms: real only, random"),
        ({"tested": ["random"]}, "the control 'real only' must be among them"),
        (
            {"choose": {"axes": ["rate"], "metric": "auc"}},
            "'rate' is no axis of search: scale, rat",
        ),
    ],
)
def test_sweep_config_that_cannot_work_says_why(changed, message):
    with pytest.raises(ConfigError, match=message):
        config(**changed)


@pytest.fixture
def site(tmp_path):
    made = Site(root=str(tmp_path), ray={"type": "none"}, device="cpu")
    source(SourceConfig(name="t", version="1", text="x"), made)
    return made


def test_sweep_in_process_tabulates_metrics_of_every_classifier(site):
    artifact = sweep(config(), site)
    rows = read_trials(artifact.path)
    assert artifact.manifest.contents["trials"] == len(rows) == 6 + 6 + 24
    real = {(r.axes["count"], r.seed): r.metrics["accuracy"] for r in rows if r.arm == "real only"}
    assert real[5, 2] == pytest.approx(0.5 + 0.05 + 0.002)
    assert "auc" not in rows[-1].metrics
    assert open_artifact(site.storage_root, Reference(rows[0].artifact)).manifest.kind == "guides"


CHOOSE = {"axes": ["scale", "ratio"], "metric": "accuracy"}


def test_sweep_chooses_on_validation_and_tests_the_chosen_setting_alone(site):
    artifact = sweep(config(choose=CHOOSE), site)
    rows = read_trials(artifact.path)
    candidates = [row for row in rows if row.candidate_of is not None]
    assert len(candidates) == 2 * 2 * 2 * 3
    assert {row.arm for row in candidates} == {None}
    assert not any("accuracy" in row.metrics for row in candidates)
    final = [row for row in rows if row.arm == "random"]
    # the toy's validation falls with the ratio, its test rises: the choice looks at the first
    assert [(dict(row.axes), row.seed, dict(row.chosen)) for row in final] == [
        ({"count": count}, seed, {"scale": 1.0, "ratio": 0.5})
        for count in (2, 5)
        for seed in (0, 1, 2)
    ]
    assert all({"accuracy", "val_accuracy"} <= set(row.metrics) for row in final)
    control = [row for row in rows if row.arm == "real only"]
    assert all(row.metrics.keys() >= {"accuracy", "val_accuracy"} for row in control)
    assert {row.arm for row in rows if "accuracy" in row.metrics} == {"real only", "random"}
    assert len(final) + len(control) == artifact.manifest.contents["compared"]


def test_sweep_trains_the_only_setting_of_an_arm_once(site):
    search = {
        "scale": {"sets": ["guide.scale"], "values": [1.0]},
        "count": {"sets": ["real.count", "random.count"], "values": [2, 5]},
    }
    artifact = sweep(config(search=search, choose={**CHOOSE, "axes": ["scale"]}), site)
    rows = read_trials(artifact.path)
    candidates = [row for row in rows if row.candidate_of is not None]
    final = [row for row in rows if row.arm == "random"]
    assert [row.artifact for row in candidates] == [row.artifact for row in final]
    assert len(final) == 2 * 3
    assert all(name.startswith("val_") for row in candidates for name in row.metrics)
    assert all({"accuracy", "val_accuracy"} <= set(row.metrics) for row in final)


def test_sweep_choice_of_least_log_loss_and_its_record(site):
    artifact = sweep(config(choose={**CHOOSE, "metric": "log_loss"}), site)
    choices = read_choices(artifact.path)
    assert [(choice.arm, dict(choice.axes)) for choice in choices] == [
        ("random", {"count": 2}),
        ("random", {"count": 5}),
    ]
    for choice in choices:
        assert choice.values == {"scale": 1.0, "ratio": 1.0}
        best = min(choice.options, key=lambda option: option.mean)
        assert dict(best.values) == {"scale": 1.0, "ratio": 1.0}
        assert {option.seeds for option in choice.options} == {3}


def test_sweep_scores_the_test_slides_only_by_the_arms_that_are_named(site):
    artifact = sweep(config(choose=CHOOSE, tested=["real only"]), site)
    rows = read_trials(artifact.path)
    assert {row.arm for row in rows if "accuracy" in row.metrics} == {"real only"}
    final = [row for row in rows if row.arm == "random"]
    assert len(final) == 6
    assert all("val_accuracy" in row.metrics for row in final)


def test_sweep_choice_without_a_setting_that_failed(site):
    search = {"scale": {"sets": ["guide.scale"], "values": [-1.0, 1.0]}}
    choose = {"axes": ["scale"], "metric": "accuracy"}
    artifact = sweep(config(search=search, choose=choose), site)
    rows = read_trials(artifact.path)
    final = [row for row in rows if row.arm == "random"]
    assert {row.chosen["scale"] for row in final} == {1.0}
    assert [option.values for option in read_choices(artifact.path)[0].options] == [{"scale": 1.0}]


ASHA = {"type": "asha", "grace": 0.25, "reduction": 2}
RATIOS = {
    "ratio": {"sets": ["random.ratio"], "values": [0.6, 0.9, 0.4, 0.8]},
    "count": {"sets": ["real.count", "random.count"], "values": [2, 5]},
}


def asha(**changed):
    choose = {"axes": ["ratio"], "metric": "accuracy"}
    return config(**{"search": RATIOS, "choose": choose, "scheduler": ASHA, **changed})


def test_sweep_with_asha_stops_settings_that_fall_behind_their_rivals(site):
    artifact = sweep(asha(), site)
    rows = read_trials(artifact.path)
    stopped = [row for row in rows if row.stopped is not None]
    # the toy's validation falls with the ratio: 0.9 and 0.8 are behind what was there before them
    assert {(row.step, row.axes["ratio"], row.stopped) for row in stopped} == {
        ("random", 0.9, 0.25),
        ("random", 0.8, 0.25),
    }
    assert len(stopped) == 2 * 2 * 3 == artifact.manifest.contents["stopped"]
    assert artifact.manifest.failed == ()
    assert {(row.error, len(row.metrics)) for row in stopped} == {(None, 0)}
    for row in stopped:
        with pytest.raises(ArtifactNotFound, match="is not finished"):
            open_artifact(site.storage_root, Reference(row.artifact))
    assert {row.chosen["ratio"] for row in rows if row.arm == "random"} == {0.4}
    options = read_choices(artifact.path)[0].options
    assert {option.values["ratio"] for option in options} == {0.6, 0.4}


def test_sweep_with_asha_that_was_interrupted_goes_on_with_the_same_rungs(site, monkeypatch):
    begun = []
    toy = toy_commands.classify

    def classify(trial, site):
        begun.append(trial.name)
        if len(begun) == 12:
            raise KeyboardInterrupt
        return toy(trial, site)

    monkeypatch.setattr(toy_commands, "classify", classify)
    with pytest.raises(KeyboardInterrupt):
        sweep(asha(), site)
    rows = read_trials(sweep(asha(), site).path)
    assert max(Counter(begun).values()) == 2
    assert [name for name, times in Counter(begun).items() if times > 1] == [begun[11]]
    quiet = Site(root=f"{site.root}-quiet", ray={"type": "none"}, device="cpu")
    source(SourceConfig(name="t", version="1", text="x"), quiet)
    assert rows == read_trials(sweep(asha(), quiet).path)


def test_sweeps_of_other_names_share_their_trials(site):
    first = read_trials(sweep(config(), site).path)
    before = {path: path.stat().st_mtime_ns for path in written(site)}
    smaller = {**VALUES["search"], "count": {"sets": ["real.count"], "values": [2]}}
    second = read_trials(sweep(config(name="other", search=smaller), site).path)
    assert {row.artifact for row in second} <= {row.artifact for row in first}
    assert {path: path.stat().st_mtime_ns for path in written(site)} == before


def written(site):
    return sorted(
        path for kind in ("guides", "classifiers") for path in Path(site.root, kind).rglob("*.json")
    )


def test_sweep_with_a_failing_trial_records_it_and_what_reads_it(site):
    search = {"scale": {"sets": ["guide.scale"], "values": [-1.0, 1.0]}}
    artifact = sweep(config(search=search, seeds=[0]), site)
    errors = {(r.step, r.axes.get("scale")): r.error for r in read_trials(artifact.path)}
    assert errors["guide", -1.0] == "scale is negative"
    assert "not run, because guides/trial-guide-" in errors["random", -1.0]
    assert errors["random", 1.0] is None
    assert errors["real", None] is None
    assert len(artifact.manifest.failed) == 2


def test_sweep_whose_trials_all_fail_is_an_error(site):
    steps = {"real": {**STEPS["real"], "config": {"seed": 0, "count": 2, "fails": True}}}
    with pytest.raises(ConfigError, match="all 3 trials failed; the first: RuntimeError: a bug"):
        sweep(config(steps=steps, search={}, arms=[{"label": "real only", "step": "real"}]), site)


@pytest.mark.parametrize(
    ("threads", "node", "reserved"), [(1, 8, 1), (4, 8, 4), (4, 2, 2), (2, 0, 1)]
)
def test_trial_reserves_its_threads_as_far_as_a_node_has_them(monkeypatch, threads, node, reserved):
    monkeypatch.setattr(command, "largest_node_cpus", lambda: node)
    trials = [SimpleNamespace(config=SimpleNamespace(threads=count)) for count in (1, threads)]
    assert command._threads([*trials, SimpleNamespace(config=SimpleNamespace())]) == reserved
