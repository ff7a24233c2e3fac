"""What validation found wrong in a config, in words: the key, what is wrong, the fix."""

import difflib
from collections.abc import Sequence
from datetime import date
from typing import Any

from pydantic import BaseModel

_SCALARS = (bool, int, float, date)
"""What YAML makes of words without quotes."""
_KEY_MARK = "[key]"


def causes(problems: Sequence[Any]) -> list[Any]:
    """The problems without those that only follow: a list is too short without its bad items."""
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem in problems
        if problem["type"] != "too_short"
        or not any(
            len(place) > len(problem["loc"]) and place[: len(problem["loc"])] == problem["loc"]
            for place in places
        )
    ]


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
    if problem["type"] == "string_type" and isinstance(problem["input"], _SCALARS):
        return _quoted(problem["input"], location)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key}: {message} (got {problem['input']!r:.80})"


def _quoted(value: bool | float | date, location: Sequence[str]) -> str:
    """How a word is written that YAML takes for something else."""
    is_key = location[-1] == _KEY_MARK
    key = ".".join(location[:-1] if is_key else location)
    word = str(value).lower() if isinstance(value, bool) else str(value)
    kind = {bool: "true or false", int: "a number", float: "a number"}.get(type(value), "a date")
    on_command_line = f" (on the command line: '{key}=\"{word}\"')" if len(location) == 1 else ""
    return (
        f"{key}: must be text, but YAML takes {word} for {kind}; put it in quotes as you wrote it,"
        f' such as "{word}"{on_command_line}'
    )


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
