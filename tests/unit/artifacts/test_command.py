import pytest
from pydantic import TypeAdapter, ValidationError

from histodiff.artifacts import Kind, Reference
from histodiff.errors import ConfigError

REFERENCE = TypeAdapter(Reference)


@pytest.mark.parametrize("text", ["a@v1", "latents/a@v1", "a-b.c_d@2026.1-dev"])
def test_reference_well_formed_is_kept(text: str) -> None:
    assert REFERENCE.validate_python(text) == text


@pytest.mark.parametrize(
    "text", ["a", "a@", "@v1", "nothing/a@v1", "latents/a/b@v1", "../a@v1", "a@../v", "a b@v1", ""]
)
def test_reference_malformed_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        REFERENCE.validate_python(text)


def test_reference_as_kind_completes_or_refuses() -> None:
    assert Reference("a@v1").as_kind(Kind.LATENTS) == "latents/a@v1"
    assert Reference("latents/a@v1").as_kind(Kind.LATENTS).folder == "latents/a/v1"
    with pytest.raises(ConfigError, match="expected one of latents/"):
        Reference("guides/a@v1").as_kind(Kind.LATENTS)
