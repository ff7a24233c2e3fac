from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from histodiff.config import (
    Added,
    Config,
    Location,
    find_config,
    identity,
    load_config,
    parse_config,
)
from histodiff.config.loader import apply_overrides, changed, read_yaml, shipped_configs
from histodiff.errors import ConfigError


class Sgd(Config):
    type: Literal["sgd"]
    lr: float


class Adam(Config):
    type: Literal["adam"]
    lr: float
    beta: float = 0.9


class Training(Config):
    steps: int = Field(gt=0)
    optimizer: Annotated[Sgd | Adam, Field(discriminator="type")]


class Root(Config):
    """A config like those of the commands."""

    name: Annotated[str, Location()]
    mpp: float
    """Microns per pixel."""
    training: Training
    stores: tuple[str, ...] = Field(default=("s",), min_length=1)


GOOD = {
    "name": "a",
    "mpp": 0.5,
    "training": {"steps": 3, "optimizer": {"type": "adam", "lr": 1.0e-3}},
}


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def without(values: dict, key: str) -> dict:
    return {name: value for name, value in values.items() if name != key}


def test_load_config_with_overrides_gives_typed_values(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "name: a\nmpp: 0.5\ntraining: {steps: 3, optimizer: {type: sgd, lr: 1.0e-3}}\n",
    )
    config = load_config(Root, path, ["mpp=0.25", "training.steps=7", "stores=[x, y]"])
    assert config.mpp == 0.25
    assert config.training.steps == 7
    assert config.stores == ("x", "y")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"mp": 0.5}, ["mp: unknown key", "did you mean 'mpp'?"]),
        ({"training": {**GOOD["training"], "stepps": 1}}, ["training.stepps", "'steps'"]),
        ({"mpp": "coarse"}, ["mpp", "'coarse'"]),
        ({"mpp": float("inf")}, ["mpp", "finite"]),
        ({"training": {**GOOD["training"], "steps": 0}}, ["training.steps", "greater than 0"]),
        (
            {"training": {"steps": 1, "optimizer": {"type": "lion", "lr": 1}}},
            ["training.optimizer", "'sgd'", "'adam'"],
        ),
        (
            {"training": {"steps": 1, "optimizer": {"type": "adam", "lr": 1, "betta": 1}}},
            ["betta: unknown key", "did you mean 'beta'?"],
        ),
        ({"name": 2024}, ["name: must be text", "for a number", "'name=\"2024\"'"]),
        ({"name": date(2024, 1, 1)}, ["for a date", "'name=\"2024-01-01\"'"]),
        ({"name": True}, ["for true or false; put it in quotes as you wrote it"]),
    ],
)
def test_parse_config_wrong_value_names_file_key_and_fix(change: dict, expected: list) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(Root, {**GOOD, **change}, source="my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml: ")
    assert "\n" not in message
    for part in expected:
        assert part in message


def test_parse_config_list_with_a_bad_item_is_not_told_to_be_short() -> None:
    values = {**GOOD, "stores": [1]}
    with pytest.raises(ConfigError, match=r"stores\.0: must be text[^;]*; put it in quotes[^;]*$"):
        parse_config(Root, values, source="my.yaml")


def test_parse_config_missing_required_key_names_it() -> None:
    with pytest.raises(ConfigError, match="mpp: required, but not given"):
        parse_config(Root, without(GOOD, "mpp"), source="my.yaml")


def test_parse_config_several_mistakes_are_all_told() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(Root, {**without(GOOD, "mpp"), "zzz": 1}, source="my.yaml")
    assert "mpp" in str(caught.value)
    assert "zzz" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "line 2: 'a' is given twice"),
        ("a:\n  b: 1\n  b: 2\n", "line 3: 'b' is given twice"),
        ("a: [1\n", "is not valid YAML"),
        ("- a\n", "must be a mapping"),
        ("", "must be a mapping"),
    ],
)
def test_read_yaml_malformed_file_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        read_yaml(written(tmp_path, text))


def test_read_yaml_of_a_folder_or_binary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("mpp", "key.path=value"),
        ("=3", "key.path=value"),
        ("mpp=[1", "not valid YAML"),
        ("mpp.x=3", "'mpp' is not a mapping|'x' has no mapping"),
        ("mpp.x.y=3", "'x' is not a mapping|'mpp' is not a mapping"),
    ],
)
def test_apply_overrides_malformed_is_refused(override: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        apply_overrides(GOOD, [override])


def test_apply_overrides_leaves_the_original_alone() -> None:
    before = repr(GOOD)
    changed = apply_overrides(GOOD, ["training.optimizer.lr=5", "extra.deep.key=1"])
    assert repr(GOOD) == before
    assert changed["training"]["optimizer"]["lr"] == 5
    assert changed["extra"]["deep"]["key"] == 1


def test_apply_overrides_list_item_is_set_by_number() -> None:
    changed = apply_overrides({"a": [{"b": 1}, {"b": 2}]}, ["a.1.b=3"])
    assert changed == {"a": [{"b": 1}, {"b": 3}]}


def test_find_config_knows_paths_and_shipped_names(tmp_path: Path) -> None:
    path = written(tmp_path, "a: 1")
    assert find_config(str(path)) == path
    shipped = shipped_configs() / "site" / "laptop.yaml"
    for name in ("site/laptop", "site/laptop.yaml", "configs/site/laptop.yaml"):
        assert find_config(name).resolve() == shipped.resolve()


def test_find_config_misspelt_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean configs/site/laptop\.yaml\?"):
        find_config("site/labtop.yaml")


def test_identity_leaves_locations_out_at_every_depth() -> None:
    class Inner(Config):
        path: Annotated[str, Location()]
        size: int

    class Outer(Config):
        name: Annotated[str, Location()]
        one: Inner
        many: tuple[Inner, ...]
        by_name: dict[str, Inner]

    inner = {"path": "/here", "size": 3}
    config = Outer.model_validate(
        {"name": "n", "one": inner, "many": [inner, inner], "by_name": {"k": inner}}
    )
    assert identity(config) == {
        "one": {"size": 3},
        "many": [{"size": 3}, {"size": 3}],
        "by_name": {"k": {"size": 3}},
    }


def test_identity_has_added_fields_only_where_they_are_set() -> None:
    class Inner(Config):
        size: int
        shape: Annotated[str | None, Added()] = None
        names: Annotated[tuple[str, ...], Added()] = ()

    class Outer(Config):
        inner: Inner

    old = {"inner": {"size": 3}}
    assert identity(Outer.model_validate(old)) == old
    assert identity(Outer.model_validate({"inner": {"size": 3, "shape": None}})) == old
    new = {"inner": {"size": 3, "shape": "round", "names": ["a"]}}
    assert identity(Outer.model_validate(new)) == new


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers(), max_size=6))
def test_apply_overrides_of_every_key_gives_the_values(values: dict[str, int]) -> None:
    overrides = [f"x.{key}={value}" for key, value in values.items() if key not in ("y", "n")]
    result = apply_overrides({}, overrides)
    expected = {key: value for key, value in values.items() if key not in ("y", "n")}
    assert result.get("x", {}) == expected


def test_changed_merges_keeping_other_keys_but_replaces_a_tagged_mapping() -> None:
    values = {"training": {"steps": 1, "lr": 2}, "rule": {"type": "a", "x": 1}}
    merged = {"training": {"steps": 5}, "rule": {"type": "b"}}
    found = changed(values, merged=merged, replaced={"training.lr": 3, "rule.y": 4})
    assert found == {"training": {"steps": 5, "lr": 3}, "rule": {"type": "b", "y": 4}}
    assert merged["rule"] == {"type": "b"}
    assert values == {"training": {"steps": 1, "lr": 2}, "rule": {"type": "a", "x": 1}}


def test_changed_replaces_a_whole_mapping() -> None:
    values = {"training": {"steps": 1, "lr": 2}}
    found = changed(values, merged={}, replaced={"training": {"steps": 5}})
    assert found == {"training": {"steps": 5}}
