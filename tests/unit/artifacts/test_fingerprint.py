from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from histodiff.artifacts import content_sha256, fingerprint
from histodiff.artifacts.fingerprint import differing_fields

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
TREES = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        LEAVES,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=5,
)


def reordered(value: Any) -> Any:
    """The same mapping with all keys inserted the other way round."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    if isinstance(value, list):
        return [reordered(item) for item in value]
    return value


@given(TREES)
def test_fingerprint_does_not_depend_on_the_order_of_keys(tree: dict[str, Any]) -> None:
    assert fingerprint(reordered(tree)) == fingerprint(tree)


@given(TREES, st.text(max_size=5), st.integers())
def test_fingerprint_changes_with_a_value(tree: dict[str, Any], key: str, value: int) -> None:
    assert fingerprint({**tree, key: [value, "x"]}) != fingerprint({**tree, key: [value, "y"]})


@given(TREES)
def test_differing_fields_of_equal_mappings_is_empty(tree: dict[str, Any]) -> None:
    assert differing_fields(tree, reordered(tree)) == []


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=5))
def test_content_digest_does_not_depend_on_order(parts: dict[str, str]) -> None:
    assert content_sha256(dict(reversed(parts.items()))) == content_sha256(parts)


def test_differing_fields_names_nested_keys_added_and_removed() -> None:
    lines = differing_fields({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4})
    assert lines == ["a.b: 1 -> 3", "a.c: 2 -> None", "d: None -> 4"]
