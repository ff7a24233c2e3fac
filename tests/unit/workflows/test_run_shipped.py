"""Every pipeline that ships resolves, with every trial of its sweep."""

import pytest

from histodiff.config.loader import shipped_configs
from histodiff.errors import ConfigError
from histodiff.workflows.run import load_pipeline, resolve_pipeline
from histodiff.workflows.sweep import SweepConfig
from histodiff.workflows.sweep.grid import expand

INPUTS = {
    "pipelines/demo.yaml": [],
    "pipelines/slides_to_report.yaml": ["inputs.slides=/s", "inputs.labelled=/l/patches.csv"],
    "pipelines/real_small.yaml": ["inputs.data=/d"],
    "pipelines/nuclei_generator.yaml": ["inputs.data=/d"],
    "pipelines/pool_generator.yaml": ["inputs.data=/d"],
    "papers/histodiffusion.yaml": [],
}


def resolved(name, *more):
    return resolve_pipeline(load_pipeline(shipped_configs() / name, [*INPUTS[name], *more]))


def sweep_of(steps):
    (config,) = [step.config for step in steps if isinstance(step.config, SweepConfig)]
    return config


@pytest.mark.parametrize("name", INPUTS)
def test_shipped_pipeline_ends_in_a_report(name):
    assert resolved(name)[-1].command.name == "report"


def test_shipped_pipelines_are_all_tested():
    folder = shipped_configs()
    found = [*(folder / "pipelines").glob("*.yaml"), *(folder / "papers").glob("*.yaml")]
    assert {str(path.relative_to(folder)) for path in found} == set(INPUTS)


def test_demo_sweep_has_every_step_once_for_each_of_four_seeds():
    trials = expand(sweep_of(resolved("pipelines/demo.yaml")), {})
    steps = ("guide", "real", "synthesize", "select", "select_random", "selected", "random")
    found = sorted((trial.step, trial.seed) for trial in trials)
    assert found == sorted((step, seed) for step in steps for seed in range(4))


def test_real_small_has_two_budgets_and_three_seeds_and_one_subset_of_labels_each():
    trials = expand(sweep_of(resolved("pipelines/real_small.yaml")), {})
    budgets = {(trial.config.budget.count, trial.seed) for trial in trials if trial.step == "real"}
    assert budgets == {(count, seed) for count in (2, 5) for seed in (0, 1, 2)}
    by_name = {trial.config.output: trial for trial in trials}
    for trial in trials:
        for parent in (by_name[name] for name in trial.parents):
            assert (parent.axes, parent.seed) == (trial.axes, trial.seed)


def test_a_mistake_in_a_sweep_shows_before_anything_runs():
    wrong = "steps.sweep.overrides.steps.guide.overrides.kind.training.batches=3"
    with pytest.raises(ConfigError, match=r"'guide' .*training\.batches: unknown key.*'batch'"):
        resolved("pipelines/demo.yaml", wrong)
