"""Every shipped config of guide..classify is valid, and the paper's has the paper's numbers."""

import pytest

from histodiff.config import load_config
from histodiff.config.loader import shipped_configs
from histodiff.workflows.classify import ClassifyConfig
from histodiff.workflows.guide import GuideConfig
from histodiff.workflows.registry import find_command, load
from histodiff.workflows.select import SelectConfig
from histodiff.workflows.synthesize import SynthesizeConfig

COMMANDS = ("guide", "synthesize", "select", "classify")
FILES = [
    (command, path.name)
    for command in COMMANDS
    for path in sorted((shipped_configs() / command).glob("*.yaml"))
]


@pytest.mark.parametrize(("command", "file"), FILES, ids=lambda value: str(value))
def test_shipped_config_is_valid(command, file):
    loaded = load(find_command(command))
    config = load_config(loaded.config_class, shipped_configs() / command / file)
    assert config.inputs()


def test_paper_configs_have_the_numbers_of_the_paper():
    folder = shipped_configs()
    sampling = load_config(SynthesizeConfig, folder / "synthesize" / "paper.yaml")
    assert (sampling.sampler.eta, sampling.schedule.steps) == (1.0, 50)
    assert sampling.guidance.scale == 10.0
    guide = load_config(GuideConfig, folder / "guide" / "paper.yaml")
    assert (guide.kind.network.channels[0], guide.kind.training.optimizer.lr) == (128, 5e-5)
    assert (guide.kind.training.batch, guide.kind.training.num_steps) == (32, 10_000)
    rule = load_config(SelectConfig, folder / "select" / "paper.yaml").rule
    assert rule.max_per_class == 501
    classify = load_config(ClassifyConfig, folder / "classify" / "paper.yaml")
    assert classify.backbone.model == "vit_small_patch16_224"
    assert classify.budget.fraction == 0.05
    assert classify.training.optimizer.lr == pytest.approx(5e-4 * classify.training.batch / 512)


def test_arms_of_real_configs_differ_in_the_samples_alone():
    folder = shipped_configs() / "classify"
    control = load_config(ClassifyConfig, folder / "real.yaml").model_dump()
    arm = load_config(ClassifyConfig, folder / "real_augmented.yaml").model_dump()
    differing = {key for key in control if control[key] != arm[key]}
    assert differing == {"name", "samples", "selection", "synthetic_ratio"}
