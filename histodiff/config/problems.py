"""What validation found wrong in a config, in words: the key, what is wrong, the fix."""

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel


def explained(cls: type[BaseModel], problem: Any) -> str:
    """One problem that validation found in a config: the key, what is wrong, the fix."""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location) or "(top level)"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(cls, location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(sorted(known))}"
        return f"{key}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{key}: required, but not given"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key}: {message} (got {problem['input']!r:.80})"


def _known_keys(cls: type[BaseModel], parents: Sequence[str]) -> list[str]:
    """Keys allowed at ``parents``, over every model that the annotations there can mean."""
    models: list[type[BaseModel]] = [cls]
    for parent in parents:
        found: list[type[BaseModel]] = []
        for model in models:
            if parent in model.model_fields:
                found += _models_in(model.model_fields[parent].annotation)
        models = found or models  # a discriminator tag or a list index is no field: stay
    return [name for model in models for name in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in getattr(annotation, "__args__", ()) for model in _models_in(arg)]
