"""Inputs of a pipeline: ``${inputs.<name>}`` in the texts of its steps."""

import re
from collections.abc import Mapping
from typing import Any

from histodiff.errors import ConfigError

_VARIABLE = re.compile(r"\$\{inputs\.([A-Za-z0-9_-]+)\}")


def substituted(value: Any, inputs: Mapping[str, str | None]) -> Any:
    """``value`` with every ``${inputs.<name>}`` in its texts replaced.

    Raises:
        ConfigError: There is no such input, or it was not given.
    """
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _input(match.group(1), inputs), value)
    if isinstance(value, Mapping):
        return {key: substituted(item, inputs) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [substituted(item, inputs) for item in value]
    return value


def _input(name: str, inputs: Mapping[str, str | None]) -> str:
    if name not in inputs:
        known = ", ".join(inputs) or "none"
        raise ConfigError(f"${{inputs.{name}}}: no such input; declared under `inputs`: {known}")
    value = inputs[name]
    if value is None:
        raise ConfigError(f"input '{name}' is needed: add inputs.{name}=... to the command")
    return value
