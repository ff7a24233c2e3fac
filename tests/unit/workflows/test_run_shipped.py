"""Every pipeline that ships resolves, with every trial of its sweep."""

import pytest

from histodiff.config.loader import shipped_configs
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.workflows.run import load_pipeline, resolve_pipeline
from histodiff.workflows.sweep import SweepConfig
from histodiff.workflows.sweep.grid import expand
from histodiff.workflows.tile import tile
from tests.support.published_sets import write_nct_crc, write_whole_pannuke

INPUTS = {
    "pipelines/demo.yaml": [],
    "pipelines/slides_to_report.yaml": ["inputs.slides=/s", "inputs.labelled=/l/patches.csv"],
    "pipelines/real_small.yaml": ["inputs.data=/d"],
    "pipelines/nuclei_generator.yaml": ["inputs.data=/d"],
    "pipelines/pool_generator.yaml": ["inputs.data=/d"],
    "papers/histodiffusion.yaml": [],
    "studies/nuclei_few_labels.yaml": ["inputs.data=/d"],
    "studies/prostate_few_labels.yaml": ["inputs.data=/d", "inputs.pool=/p"],
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
    found = [
        path
        for name in ("pipelines", "papers", "studies")
        for path in (folder / name).glob("*.yaml")
    ]
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


STUDIES = [name for name in INPUTS if name.startswith("studies/")]


@pytest.mark.parametrize("name", STUDIES)
def test_study_gives_every_command_the_labels_and_the_division_of_its_seed(name):
    config = sweep_of(resolved(name))
    trials = expand(config, {})
    by_name = {trial.config.output: trial for trial in trials}
    for trial in trials:
        varied = getattr(trial.config, "variation", None)
        for reads_labels in filter(None, (trial.config, varied)):
            if hasattr(reads_labels, "budget"):
                assert reads_labels.dev_split is not None
                assert reads_labels.dev_split.seed is None
        for parent in (by_name[name] for name in trial.parents):
            assert parent.seed == trial.seed
            assert parent.axes.items() <= trial.axes.items()
    assert len(config.seeds) == 8
    assert {trial.config.splits for trial in trials if trial.command == "classify"} == {
        ("val",), ("val", "test"),
    }  # fmt: skip


@pytest.mark.parametrize("name", STUDIES)
def test_study_adds_equally_many_images_in_every_arm_at_a_budget(name):
    config = sweep_of(resolved(name))
    ratios = {}
    for trial in expand(config, {}):
        if trial.command == "classify" and trial.config.synthetic_ratio:
            ratios.setdefault(trial.config.budget.count, set()).add(trial.config.synthetic_ratio)
    assert len(ratios) == 3
    assert all(len(found) == 1 for found in ratios.values())


def test_small_form_of_the_nuclei_study_is_what_its_header_says():
    small = ["version=small", "steps.denoiser.overrides.train.images=134400",
             "steps.sweep.config.seeds=[0,1,2]",
             "steps.sweep.config.search.guidance_scale.values=[8.0]",
             "steps.sweep.config.search.variation_sigma.values=[[0.7]]"]  # fmt: skip
    config = sweep_of(resolved("studies/nuclei_few_labels.yaml", *small))
    assert config.seeds == (0, 1, 2)
    assert config.search["guidance_scale"].values == (8.0,)
    scored = {trial.config.splits for trial in expand(config, {}) if trial.command == "classify"}
    assert scored == {("val", "test")}  # settings without rivals are trained once


def test_a_mistake_in_a_sweep_shows_before_anything_runs():
    wrong = "steps.sweep.overrides.steps.guide.overrides.kind.training.batches=3"
    with pytest.raises(ConfigError, match=r"'guide' .*training\.batches: unknown key.*'batch'"):
        resolved("pipelines/demo.yaml", wrong)


def paper():
    """Steps of the paper's pipeline, and the trials of its sweep."""
    steps = {step.name: step.config for step in resolved("papers/histodiffusion.yaml")}
    return steps, expand(steps["sweep"], {})


def test_paper_is_an_ablation_of_samples_and_decoder_at_four_ratios():
    steps, trials = paper()
    arms = {arm.step for arm in steps["sweep"].arms}
    found = [(t.step, t.axes.get("synthetic_ratio"), t.seed) for t in trials if t.step in arms]
    generative = arms - {"real", "colours"}
    assert {name.partition("_")[::2] for name in generative} == {
        (samples, decoder) for samples in ("random", "selected") for decoder in ("tuned", "untuned")
    }
    wanted = [(step, None, seed) for step in ("real", "colours") for seed in range(5)]
    wanted += [(s, r, n) for s in generative for r in (0.5, 1.0, 2.0, 3.0) for n in range(5)]
    assert sorted(found, key=str) == sorted(wanted, key=str)
    by_ratio = {t.axes["synthetic_ratio"]: t.config for t in trials if t.step in generative}
    assert {ratio: config.synthetic_ratio for ratio, config in by_ratio.items()} == {
        ratio: ratio for ratio in by_ratio
    }


def test_paper_decoder_of_a_trial_sees_the_labels_of_its_own_seed():
    _, trials = paper()
    by_name = {trial.config.output: trial for trial in trials}
    decoders = [trial for trial in trials if trial.step == "decoder"]
    assert [trial.config.seed for trial in decoders] == list(range(5))
    for trial in trials:
        parents = [by_name[name] for name in trial.parents if name in by_name]
        assert {parent.seed for parent in parents} <= {trial.seed}
    drawn = {
        trial.step: {by_name[name].step for name in trial.parents if name in by_name}
        for trial in trials
    }
    assert "decoder" in drawn["synthesize_tuned"]
    assert "decoder" not in drawn["synthesize_untuned"]
    budgets = {
        t.config.budget for t in trials if t.step in ("guide", "real", "colours", "selected_tuned")
    }
    assert budgets == {decoders[0].config.mode.loss.classification.budget}
    assert budgets.pop().fraction == 0.05


def test_paper_draws_three_times_what_its_largest_arm_takes():
    steps, trials = paper()
    labels = 0.05 * (1 - steps["nct_crc"].split.val) * steps["nct_crc"].sources[0].num_published
    (per_class,) = {t.config.per_class for t in trials if t.step.startswith("synthesize")}
    (cap,) = {t.config.rule.max_per_class for t in trials if t.step == "select_tuned"}
    assert 9 * cap >= 3.0 * labels
    assert per_class >= 3 * cap


def test_paper_tests_on_the_official_set_at_256_px():
    steps, _ = paper()
    train, test = steps["nct_crc"].sources
    assert (train.published_split, test.published_split) == (None, "test")
    assert steps["nct_crc"].patch_px == 256
    scale = steps["nct_crc"].mpp
    assert [source.mpp * 224 / 256 for source in (train, test)] == [scale, scale]
    assert {source.tissue for source in steps["pannuke"].sources} == {"none"}
    assert {source.published_split for source in steps["pannuke"].sources} == {None}


def test_paper_tiles_its_public_sets_as_published(tmp_path, site):
    write_nct_crc(tmp_path / "nct")
    write_whole_pannuke(tmp_path / "pannuke")
    folders = [f"inputs.nct_crc={tmp_path / 'nct'}", f"inputs.pannuke={tmp_path / 'pannuke'}"]
    steps = {step.name: step.config for step in resolved("papers/histodiffusion.yaml", *folders)}
    target = PatchIndex.open(tile(steps["nct_crc"], site).path).patches.to_pylist()
    assert len(target) == 81
    assert {row["effective_mpp_x"] for row in target} == {0.4375}
    assert sum(row["split"] == "test" for row in target) == 27
    pool = PatchIndex.open(tile(steps["pannuke"], site).path).patches.to_pylist()
    assert [row["label"] for row in pool] == [None] * 9
    assert {row["split"] for row in pool} == {"train", "val"}
