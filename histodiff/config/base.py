"""The base class of every config, and what of a config has identity.

A config says *what* is computed; its ``identity`` is fingerprinted. A field that only says *where*
something lies (a path) is annotated ``Annotated[str, Location()]`` and left out of the identity.
A field that is newer than finished artifacts is annotated ``Annotated[..., Added()]``: it counts
where it is set, so that configs which do not set it keep the identity that they had.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


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


@dataclass(frozen=True)
class Added:
    """Marks a field without identity while it has its default: ``Annotated[bool, Added()]``."""


def identity(config: Config) -> dict[str, Any]:
    """JSON-ready fields of ``config`` that decide what is computed.

    Without ``Location`` fields, and without ``Added`` fields that have their default.
    """
    dumped = config.model_dump(mode="json")
    return {
        name: _identity_of(getattr(config, name), dumped[name])
        for name, field in type(config).model_fields.items()
        if _counts(field, getattr(config, name))
    }


def _counts(field: FieldInfo, value: object) -> bool:
    """Whether a field with this value decides what is computed."""
    if any(isinstance(mark, Location) for mark in field.metadata):
        return False
    added = any(isinstance(mark, Added) for mark in field.metadata)
    return not (added and value == field.get_default(call_default_factory=True))


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
