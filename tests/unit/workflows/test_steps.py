import pytest
import yaml

from histodiff.artifacts import Reference
from histodiff.errors import ConfigError
from histodiff.workflows import registry
from histodiff.workflows.inputs import substituted
from histodiff.workflows.resolution import Naming, PlannedStep, resolve
from histodiff.workflows.steps import StepSpec, in_order, read_steps
from tests.support.toy_commands import TOY_COMMANDS


@pytest.fixture(autouse=True)
def toy_commands(monkeypatch):
    for name, command in TOY_COMMANDS.items():
        monkeypatch.setitem(registry.COMMANDS, name, command)


@pytest.fixture
def guide_yaml(tmp_path):
    path = tmp_path / "guide.yaml"
    path.write_text(
        yaml.safe_dump({"name": "x", "version": "dev", "patches": "a@1", "seed": 0, "scale": 1.0})
    )
    return path


def spec(**values):
    return StepSpec.model_validate(values)


def read(inputs=None, given=(), **specs):
    return read_steps(specs, source="p.yaml", inputs=inputs or {}, given=given)


def resolved(step, *, settings=None, **given):
    """The one step, as a pipeline called `p` resolves it."""
    known = {name: Reference(text) for name, text in given.items()}
    (found,) = read(given=tuple(given), g=step)
    planned = PlannedStep("g", found, settings or {}, {})
    (result,) = resolve([planned], Naming("p", "dev"), given=known)
    return result


def test_resolve_takes_file_then_overrides_then_references_then_settings(guide_yaml):
    step = spec(
        command="guide",
        config=str(guide_yaml),
        overrides={"scale": 2.0, "seed": 5},
        **{"from": {"patches": "tiles"}},
    )
    result = resolved(step, settings={"seed": 7}, tiles="patches/p-tiles@dev")
    assert result.config.model_dump() == {
        "name": "p-g",
        "version": "dev",
        "patches": "patches/p-tiles@dev",
        "seed": 7,
        "scale": 2.0,
    }


def test_resolve_gives_a_step_the_address_of_the_one_planned_that_it_reads(guide_yaml):
    tiles = spec(command="tile", config={"text": "x"})
    reader = spec(command="guide", config=str(guide_yaml), **{"from": {"patches": "tiles"}})
    first, second = read(g=reader, tiles=tiles)
    planned = [PlannedStep("1", first, {}, {}), PlannedStep("2", second, {}, {"tiles": "1"})]
    results = resolve(planned, Naming("p", "v1"), given={})
    assert [str(step.config.output) for step in results] == ["patches/p-tiles@v1", "guides/p-g@v1"]
    assert results[1].config.patches == "patches/p-tiles@v1"
    assert results[1].parents == ("patches/p-tiles@v1",)


def test_resolve_leaves_what_was_read_as_it_is(guide_yaml):
    inner = {"text": "x"}
    (step,) = read(t=spec(command="tile", config=inner, overrides={"text": "y"}))
    planned = [PlannedStep(text, step, {"text": text}, {}) for text in ("a", "b")]
    results = resolve(planned, Naming("p", "dev"), given={})
    assert [step.config.text for step in results] == ["a", "b"]
    assert inner == {"text": "x"}
    assert step.overrides == {"text": "y"}


def test_resolve_with_unknown_key_names_file_step_and_key(guide_yaml):
    step = spec(command="guide", config=str(guide_yaml), overrides={"scal": 2.0})
    with pytest.raises(ConfigError, match=r"p\.yaml: step 'g' .*guide\.yaml.*scal.*'scale'"):
        resolved(step)


def test_resolve_with_an_override_through_a_number_names_file_step_and_key(guide_yaml):
    step = spec(command="guide", config=str(guide_yaml), overrides={"seed.x": 2.0})
    with pytest.raises(ConfigError, match=r"p\.yaml: step 'g' .*guide\.yaml.*override 'seed\.x'"):
        resolved(step)


def test_read_steps_with_unknown_command_lists_commands():
    with pytest.raises(ConfigError, match=r"step 'g': command 'gide': unknown; known: tile"):
        read(g=spec(command="gide", config={}))


def test_read_steps_with_missing_input_says_how_to_give_it():
    step = spec(command="tile", config={"text": "${inputs.slides}"})
    with pytest.raises(ConfigError, match=r"'t': input 'slides' is needed: add inputs\.slides="):
        read({"slides": None}, t=step)


def test_read_steps_with_a_missing_file_names_the_step():
    with pytest.raises(ConfigError, match=r"p\.yaml: step 't'.*no such config file"):
        read(t=spec(command="tile", config="nowhere/at_all.yaml"))


def test_read_steps_fills_inputs_into_files_and_overrides(tmp_path):
    path = tmp_path / "tile.yaml"
    path.write_text('{text: "${inputs.data}/x"}')
    step = spec(command="tile", config=str(path), overrides={"other": ["${inputs.data}"]})
    (found,) = read({"data": "/d"}, t=step)
    assert found.values == {"text": "/d/x"}
    assert found.overrides == {"other": ["/d"]}


def test_substituted_replaces_inside_nested_text():
    found = substituted({"a": ["${inputs.data}/x", 3]}, {"data": "/d"})
    assert found == {"a": ["/d/x", 3]}


def test_substituted_with_undeclared_input_is_an_error():
    with pytest.raises(ConfigError, match=r"\$\{inputs\.x\}: no such input; declared .*: data"):
        substituted("${inputs.x}", {"data": "/d"})


def test_in_order_puts_a_step_after_what_it_reads():
    steps = {
        "c": spec(command="x", config={}, **{"from": {"k": ["a", "b"]}}),
        "a": spec(command="x", config={}),
        "b": spec(command="x", config={}, **{"from": {"k": "a"}}),
    }
    assert in_order(steps, source="p.yaml") == ["a", "b", "c"]


def test_in_order_with_a_circle_is_an_error():
    steps = {
        "a": spec(command="x", config={}, **{"from": {"k": "b"}}),
        "b": spec(command="x", config={}, **{"from": {"k": "a"}}),
    }
    with pytest.raises(ConfigError, match=r"p\.yaml: steps a, b read each other in a circle"):
        in_order(steps, source="p.yaml")


def test_in_order_with_unknown_parent_names_the_known_ones():
    steps = {
        "a": spec(command="x", config={}, **{"from": {"k": "tiels"}}),
        "tiles": spec(command="x", config={}),
    }
    with pytest.raises(ConfigError, match=r"step 'a': from: 'tiels' is no step; known: tiles"):
        in_order(steps, source="p.yaml")
