import pytest
import yaml

from histodiff.cluster.site import Site
from histodiff.errors import ConfigError
from histodiff.workflows import registry
from histodiff.workflows.run import load_pipeline, plan_pipeline, resolve_pipeline, run_pipeline
from tests.support.toy_commands import TOY_COMMANDS

PIPELINE = {
    "name": "p",
    "version": "dev",
    "inputs": {"text": None},
    "steps": {
        "score": {
            "command": "classify",
            "config": {"seed": 0, "count": 2},
            "from": {"patches": "tiles", "guide": "g"},
        },
        "g": {"command": "guide", "config": {"seed": 1, "scale": 2}, "from": {"patches": "tiles"}},
        "tiles": {"command": "tile", "config": {"text": "${inputs.text}"}},
    },
}


@pytest.fixture(autouse=True)
def toy_commands(monkeypatch):
    for name, command in TOY_COMMANDS.items():
        monkeypatch.setitem(registry.COMMANDS, name, command)


@pytest.fixture
def site(tmp_path):
    return Site(root=str(tmp_path / "runs"), ray={"type": "none"}, device="cpu")


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    return file


def test_run_pipeline_writes_every_step_in_order(path, site):
    artifacts = run_pipeline(load_pipeline(path, ["inputs.text=hi"]), site)
    assert [str(item.reference) for item in artifacts] == [
        "patches/p-tiles@dev",
        "guides/p-g@dev",
        "classifiers/p-score@dev",
    ]
    assert (artifacts[0].path / "text.txt").read_text() == "hi"
    assert list(artifacts[2].manifest.inputs) == ["patches/p-tiles@dev", "guides/p-g@dev"]


def test_run_pipeline_twice_changes_nothing(path, site):
    pipeline = load_pipeline(path, ["inputs.text=hi"])
    first = run_pipeline(pipeline, site)
    second = run_pipeline(pipeline, site)
    assert [a.manifest for a in first] == [a.manifest for a in second]


def test_resolve_pipeline_without_a_required_input_says_how_to_give_it(path):
    with pytest.raises(ConfigError, match=r"step 'tiles': input 'text' is needed"):
        resolve_pipeline(load_pipeline(path))


def test_resolve_pipeline_takes_step_overrides_from_the_command_line(path):
    overrides = ["inputs.text=hi", "steps.g.overrides.scale=5", "version=v2"]
    configs = {s.name: s.config for s in resolve_pipeline(load_pipeline(path, overrides))}
    assert configs["g"].scale == 5
    assert str(configs["g"].output) == "guides/p-g@v2"


def test_run_pipeline_stops_at_the_first_error(path, site):
    overrides = ["inputs.text=hi", "steps.g.overrides.scale=-1"]
    with pytest.raises(ConfigError, match="scale is negative"):
        run_pipeline(load_pipeline(path, overrides), site)
    assert not (site.storage_root / "classifiers").exists()


def test_plan_pipeline_computes_nothing_and_says_what_is_missing(path, site):
    plans = list(plan_pipeline(load_pipeline(path, ["inputs.text=hi"]), site))
    assert [(plan.step, plan.state) for plan in plans] == [
        ("tiles", "missing"),
        ("g", "missing"),
        ("score", "missing"),
    ]
    assert plans[1].missing_inputs == ("patches/p-tiles@dev",)
    assert plans[0].estimate == {"units": 1}
    assert not site.storage_root.exists()


def test_plan_pipeline_after_a_run_says_done_and_after_a_change_differs(path, site):
    run_pipeline(load_pipeline(path, ["inputs.text=hi"]), site)
    changed = load_pipeline(path, ["inputs.text=hi", "steps.g.overrides.scale=5"])
    states = {plan.step: plan.state for plan in plan_pipeline(changed, site)}
    assert states == {"tiles": "done", "g": "differs (will be rebuilt)", "score": "done"}
