"""The base class of every config, and what of a config has identity.

A config says *what* is computed; its ``identity`` is fingerprinted. A field that only says *where*
something lies (a path) is annotated ``Annotated[str, Location()]`` and left out of the identity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen, strict configuration node: unknown keys are errors, fields have docstrings."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


@dataclass(frozen=True)
class Location:
    """Marks a field as a place or a label, without identity: ``Annotated[str, Location()]``."""


def identity(config: Config) -> dict[str, Any]:
    """JSON-ready fields of ``config`` that decide what is computed (no ``Location`` fields)."""
    dumped = config.model_dump(mode="json")
    fields = type(config).model_fields
    return {
        name: _identity_of(getattr(config, name), dumped[name])
        for name, field in fields.items()
        if not any(isinstance(mark, Location) for mark in field.metadata)
    }


def _identity_of(value: object, dumped: Any) -> Any:
    if isinstance(value, Config):
        return identity(value)
    if isinstance(value, Mapping):
        return {
            key: _identity_of(item, dumped_item)
            for (key, item), dumped_item in zip(value.items(), dumped.values(), strict=True)
        }
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_identity_of(item, other) for item, other in zip(value, dumped, strict=True)]
    return dumped
