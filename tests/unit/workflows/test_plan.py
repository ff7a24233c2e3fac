import pytest
import yaml

from histodiff.artifacts import Reference
from histodiff.cluster.site import Prices, Site
from histodiff.errors import ConfigError
from histodiff.workflows import registry
from histodiff.workflows.plan import Rates, StepTime, plan, resolve_target, totals
from histodiff.workflows.run import StepPlan
from tests.support.toy_commands import TOY_COMMANDS


def step(command, estimate, missing=()):
    return StepPlan(command, command, Reference("latents/a@1"), "missing", missing, estimate)


def test_totals_sums_amounts_and_ignores_words(site):
    steps = [step("tile", {"patches": 10, "note": "x"}), step("encode", {"patches": 5, "bytes": 7})]
    assert totals(steps, {}, site) == {"patches": 15.0, "bytes": 7.0}


def priced(site, **prices):
    return site.model_copy(update={"prices": Prices(currency="EUR", **prices)})


TIMES = {"encode": StepTime(7200.0, 3, None), "pretrain": StepTime(1800.0, 2, None)}


def test_totals_give_hours_and_cost_of_the_whole_site(site):
    found = totals([], TIMES, priced(site, site_hour=4.0, worker_hour=100.0))
    assert found["hours"] == pytest.approx(2.5)
    assert found["cpu_hours"] == pytest.approx(2 * 3 + 0.5 * 2)
    assert found["cost"] == found["cost_compute"] == pytest.approx(10.0)


def test_totals_give_cost_per_worker_where_the_site_has_no_price(site):
    gpus = priced(site, worker_hour=2.0).model_copy(update={"device": "cuda"})
    found = totals([], TIMES, gpus)
    assert found["gpu_hours"] == pytest.approx(7.0)
    assert found["cost"] == pytest.approx(14.0)


def test_totals_price_requests_and_storage_and_nothing_that_has_no_price(site):
    amounts = {
        "bytes": 2e9, "puts_requests": 3000, "lists_requests": 1000, "gets_requests": 5000,
    }  # fmt: skip
    steps = [step("encode", amounts)]
    found = totals(steps, {}, priced(site, put_1000=0.5, get_1000=0.1, gb_month=0.02))
    assert found["cost_requests"] == found["cost"] == pytest.approx(2.0 + 0.5)
    assert found["cost_storage_month"] == pytest.approx(0.04)
    unpriced = totals(steps, TIMES, priced(site))
    assert not [key for key in unpriced if key.startswith("cost")]
    assert not [key for key in totals(steps, TIMES, site) if key.startswith("cost")]


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
