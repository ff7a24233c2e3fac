"""Steps: how a pipeline or a sweep says which commands run, on which config, reading what.

A step is a shipped config (or one in place) with overrides and with references to the artifacts of
other steps. ``resolve_step`` turns it into the command's own validated config; every mistake ends
in one line that names the file, the step and the key.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from histodiff.artifacts import CommandConfig, Reference, open_artifact
from histodiff.artifacts.command import Word
from histodiff.config import Config, Location, find_config, parse_config
from histodiff.config.loader import read_yaml, set_at
from histodiff.errors import ArtifactNotFound, ConfigError
from histodiff.storage import StoragePath
from histodiff.workflows.registry import LoadedCommand, find_command, load

_VARIABLE = re.compile(r"\$\{inputs\.([A-Za-z0-9_-]+)\}")


class StepSpec(Config):
    """One step: a command, its config, and what it reads."""

    model_config = ConfigDict(populate_by_name=True)

    command: str
    """Name of a command that writes an artifact."""
    config: Annotated[str | dict[str, Any], Location()]
    """A config file (a path, or one that ships with histodiff), or the config itself."""
    overrides: dict[str, Any] = Field(default={})
    """Values by `key.path`. A mapping is merged into the config's, unless it has a `type`."""
    reads: dict[str, str | tuple[str, ...]] = Field(default={}, alias="from")
    """Config key -> the step, or steps, whose artifact is read there."""


@dataclass(frozen=True)
class Scope:
    """What the text of a step can refer to.

    ``source`` names the file in errors; ``inputs`` are the values of ``${inputs.<name>}``, None for
    one that must be given; ``addresses`` are the artifacts by the name of their step.
    """

    source: str
    inputs: Mapping[str, str | None]
    addresses: Mapping[str, Reference]


@dataclass(frozen=True)
class ResolvedStep:
    """A step whose config is complete and valid."""

    name: str
    command: LoadedCommand
    config: CommandConfig
    parents: tuple[str, ...]


def parents_of(spec: StepSpec) -> tuple[str, ...]:
    """Names that the step reads, each once, in the order they are given."""
    names = [
        name
        for value in spec.reads.values()
        for name in ((value,) if isinstance(value, str) else value)
    ]
    return tuple(dict.fromkeys(names))


def in_order(steps: Mapping[str, StepSpec], *, source: str, given: Sequence[str] = ()) -> list[str]:
    """Names of the steps, each after what it reads; otherwise in the order they are written.

    Args:
        steps: The steps by name.
        source: File, for errors.
        given: Names that steps may read and that are no steps (artifacts that exist already).

    Raises:
        ConfigError: A step reads something unknown, or steps read each other in a circle.
    """
    for name, spec in steps.items():
        for parent in parents_of(spec):
            if parent not in steps and parent not in given:
                known = ", ".join([*given, *(other for other in steps if other != name)])
                raise ConfigError(
                    f"{source}: step '{name}': from: '{parent}' is no step;"
                    f" known: {known or 'none'}"
                )
    ordered: list[str] = []
    waiting = list(steps)
    while waiting:
        ready = [n for n in waiting if set(parents_of(steps[n])) <= {*ordered, *given}]
        if not ready:
            raise ConfigError(
                f"{source}: steps {', '.join(waiting)} read each other in a circle; break it at one"
                " `from`"
            )
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered


def resolve_step(
    name: str,
    spec: StepSpec,
    scope: Scope,
    *,
    output: tuple[str, str],
    settings: Mapping[str, Any] | None = None,
) -> ResolvedStep:
    """The step with its command imported and its config validated.

    Args:
        name: Name of the step, for errors.
        spec: The step as written.
        scope: What it can refer to.
        output: Name and version of the artifact that it writes.
        settings: Further values by ``key.path``, set last (the axes of a sweep).

    Raises:
        ConfigError: With the file, the step and the key.
    """
    place = f"{scope.source}: step '{name}'"
    try:
        command = load(find_command(spec.command))
        values = _values_of(spec, scope)
        for key, value in (settings or {}).items():
            set_at(values, key, value)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    values["name"], values["version"] = output
    shown = f" ({spec.config})" if isinstance(spec.config, str) else ""
    config = parse_config(command.config_class, values, source=f"{place}{shown}")
    return ResolvedStep(name, command, config, parents_of(spec))


def merge(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets ``key.path`` in place; a mapping is merged, unless it names its own ``type``."""
    if isinstance(value, Mapping) and value and "type" not in value:
        for inner, item in value.items():
            merge(values, f"{key}.{inner}", item)
    else:
        set_at(values, key, value)


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


def _values_of(spec: StepSpec, scope: Scope) -> dict[str, Any]:
    given = read_yaml(find_config(spec.config)) if isinstance(spec.config, str) else spec.config
    values: dict[str, Any] = substituted(given, scope.inputs)
    for key, value in spec.overrides.items():
        merge(values, key, substituted(value, scope.inputs))
    for key, parent in spec.reads.items():
        set_at(values, key, _addresses(parent, scope.addresses))
    return values


def _addresses(parent: str | Sequence[str], known: Mapping[str, Reference]) -> str | list[str]:
    if isinstance(parent, str):
        return str(known[parent])
    return [str(known[name]) for name in parent]


def _input(name: str, inputs: Mapping[str, str | None]) -> str:
    if name not in inputs:
        known = ", ".join(inputs) or "none"
        raise ConfigError(f"${{inputs.{name}}}: no such input; declared under `inputs`: {known}")
    value = inputs[name]
    if value is None:
        raise ConfigError(f"input '{name}' is needed: add inputs.{name}=... to the command")
    return value


def output_name(owner: Word, step: str) -> str:
    """Name of the artifact that a step of a pipeline or sweep writes."""
    return f"{owner}-{step}"


def is_finished(root: StoragePath, address: Reference) -> bool:
    """Whether there is an artifact, with its manifest."""
    try:
        open_artifact(root, address)
    except ArtifactNotFound:
        return False
    return True
