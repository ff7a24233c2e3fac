"""How large a YAML text may be."""

from pathlib import Path

import pytest

from histodiff.config.loader import apply_overrides, read_yaml
from histodiff.errors import ConfigError

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "nodes"),
        (MERGES, "nodes"),
        ("a: &a [*a]", "inside"),
        ("a: &a {b: [*a]}", "inside"),
        ("[" * 5000, "nested"),
        ("a: " + "{b: " * 2000, "nested"),
        ("- " * 2000 + "x", "nested"),
        ("a: '" + "x" * 5_000_000 + "'", "characters"),
        ("a: [" + "1," * 60_000 + "]", "nodes"),
    ],
    ids=[
        "aliases",
        "merges",
        "itself",
        "itself_deep",
        "lists",
        "mappings",
        "dashes",
        "long",
        "many",
    ],
)
def test_yaml_without_bounds_is_refused_with_file_and_reason(
    text: str, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as refused:
        read_yaml(file)
    assert str(file) in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        apply_overrides({}, [f"key={text}"])
    assert len(str(refused.value)) < 600


def test_aliases_in_measure_are_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: &a {x: 1}\nb: *a\nc: [*a, *a]\n")
    assert read_yaml(tmp_path / "c.yaml") == {"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}] * 2}
