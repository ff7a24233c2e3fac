import pytest
import yaml

from histodiff.artifacts import Reference
from histodiff.errors import ConfigError
from histodiff.workflows import registry
from histodiff.workflows.steps import Scope, StepSpec, in_order, merge, resolve_step, substituted
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


def scope(inputs=None, **addresses):
    known = {name: Reference(text) for name, text in addresses.items()}
    return Scope("p.yaml", inputs or {}, known)


def test_resolve_step_takes_file_then_overrides_then_references_then_settings(guide_yaml):
    step = spec(
        command="guide",
        config=str(guide_yaml),
        overrides={"scale": 2.0},
        **{"from": {"patches": "tiles"}},
    )
    resolved = resolve_step(
        "g",
        step,
        scope(tiles="patches/p-tiles@dev"),
        output=("p-g", "dev"),
        settings={"seed": 7},
    )
    assert resolved.config.model_dump() == {
        "name": "p-g",
        "version": "dev",
        "patches": "patches/p-tiles@dev",
        "seed": 7,
        "scale": 2.0,
    }
    assert resolved.parents == ("tiles",)


def test_resolve_step_with_unknown_key_names_file_step_and_key(guide_yaml):
    step = spec(command="guide", config=str(guide_yaml), overrides={"scal": 2.0})
    with pytest.raises(ConfigError, match=r"p\.yaml: step 'g' .*guide\.yaml.*scal.*'scale'"):
        resolve_step("g", step, scope(), output=("p-g", "dev"))


def test_resolve_step_with_unknown_command_lists_commands():
    with pytest.raises(ConfigError, match=r"step 'g': command 'gide': unknown; known: tile"):
        resolve_step("g", spec(command="gide", config={}), scope(), output=("p-g", "dev"))


def test_resolve_step_with_missing_input_says_how_to_give_it():
    step = spec(command="tile", config={"text": "${inputs.slides}"})
    with pytest.raises(ConfigError, match=r"'t': input 'slides' is needed: add inputs\.slides="):
        resolve_step("t", step, scope({"slides": None}), output=("p-t", "dev"))


def test_substituted_replaces_inside_nested_text():
    found = substituted({"a": ["${inputs.data}/x", 3]}, {"data": "/d"})
    assert found == {"a": ["/d/x", 3]}


def test_substituted_with_undeclared_input_is_an_error():
    with pytest.raises(ConfigError, match=r"\$\{inputs\.x\}: no such input; declared .*: data"):
        substituted("${inputs.x}", {"data": "/d"})


def test_merge_keeps_other_keys_but_replaces_a_tagged_mapping():
    values = {"training": {"steps": 1, "lr": 2}, "rule": {"type": "a", "x": 1}}
    merge(values, "training", {"steps": 5})
    merge(values, "rule", {"type": "b"})
    assert values == {"training": {"steps": 5, "lr": 2}, "rule": {"type": "b"}}


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
