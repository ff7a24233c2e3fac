import pytest
import yaml

from histodiff.artifacts import Reference
from histodiff.cluster.site import Site
from histodiff.errors import ConfigError
from histodiff.workflows import registry
from histodiff.workflows.plan import Rates, plan, resolve_target, totals
from histodiff.workflows.run import StepPlan
from tests.support.toy_commands import TOY_COMMANDS


def step(command, estimate, missing=()):
    return StepPlan(command, command, Reference("latents/a@1"), "missing", missing, estimate)


def test_totals_sums_amounts_and_ignores_words():
    steps = [step("tile", {"patches": 10, "note": "x"}), step("encode", {"patches": 5, "bytes": 7})]
    assert totals(steps, Rates()) == {"patches": 15.0, "bytes": 7.0}


def test_totals_with_rates_gives_hours_and_cost():
    steps = [step("encode", {"patches": 7200}), step("pretrain", {"images": 36000})]
    rates = Rates(patches_per_second=2, images_per_second=10, price_per_hour=3)
    found = totals(steps, rates)
    assert found["hours"] == pytest.approx(2.0)
    assert found["cost"] == pytest.approx(6.0)


@pytest.fixture
def toy_only(monkeypatch):
    monkeypatch.setattr(registry, "COMMANDS", TOY_COMMANDS)
    monkeypatch.setattr("histodiff.workflows.plan.COMMANDS", TOY_COMMANDS)


@pytest.fixture
def site(tmp_path):
    return Site(root=str(tmp_path / "runs"), ray={"type": "none"}, device="cpu")


def write(tmp_path, values):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_resolve_target_knows_the_command_of_a_config(toy_only, tmp_path):
    path = write(tmp_path, {"name": "n", "version": "1", "patches": "a@1", "seed": 1, "scale": 2})
    (found,) = resolve_target(path)
    assert (found.command.name, str(found.config.output)) == ("guide", "guides/n@1")


def test_resolve_target_that_fits_no_command_says_what_to_do(toy_only, tmp_path):
    path = write(tmp_path, {"name": "n", "version": "1", "what": 1})
    with pytest.raises(ConfigError, match=r"c\.yaml: is no pipeline, .* fits none; .*--dry-run"):
        resolve_target(path)


def test_plan_lists_what_cannot_be_known_yet(toy_only, tmp_path, site):
    steps = {
        "tiles": {"command": "tile", "config": {"text": "x"}},
        "g": {"command": "guide", "config": {"seed": 1, "scale": 2}, "from": {"patches": "tiles"}},
    }
    path = write(tmp_path, {"name": "p", "version": "1", "steps": steps})
    found = plan(resolve_target(path), site, rates=Rates())
    assert found.unknown == ("g: not known before patches/p-tiles@1",)
