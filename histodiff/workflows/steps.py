"""Steps: how a pipeline or a sweep says which commands run, on which config, reading what.

A step is a shipped config (or one in place) with overrides and with references to the artifacts of
other steps. ``read_steps`` takes all steps as they are written and gives them in order, each read
and filled in; ``resolution`` makes them the commands' own configs. Every mistake ends in one line
that names the file, the step and the key.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field

from histodiff.config import Config, Location
from histodiff.config.loader import read_config
from histodiff.errors import ConfigError
from histodiff.workflows.inputs import substituted
from histodiff.workflows.registry import LoadedCommand, find_command, load

FoundT = TypeVar("FoundT")


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

    @property
    def parents(self) -> tuple[str, ...]:
        """Names that the step reads, each once, in the order they are given."""
        names = [
            name
            for value in self.reads.values()
            for name in ((value,) if isinstance(value, str) else value)
        ]
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Step:
    """A step with its command imported, its file read and the inputs of the pipeline filled in."""

    name: str
    place: str
    """File, step and config file, for errors."""
    command: LoadedCommand
    values: Mapping[str, Any]
    """Its config, before overrides."""
    overrides: Mapping[str, Any]
    reads: Mapping[str, str | tuple[str, ...]]
    parents: tuple[str, ...]


def read_steps(
    specs: Mapping[str, StepSpec],
    *,
    source: str,
    inputs: Mapping[str, str | None],
    given: Sequence[str] = (),
) -> list[Step]:
    """All steps, each after what it reads.

    Args:
        specs: The steps by name, as they are written.
        source: File, for errors.
        inputs: Values of ``${inputs.<name>}``, None for one that must be given.
        given: Names that steps may read and that are no steps (artifacts that exist already).

    Raises:
        ConfigError: With the file, the step and the key.
    """
    names = in_order(specs, source=source, given=given)
    places = {name: _place(source, name, specs[name]) for name in names}
    commands = _of_each(places, lambda name: load(find_command(specs[name].command)))
    read = _of_each(places, lambda name: read_config(specs[name].config))
    texts = {name: [read[name], specs[name].overrides] for name in names}
    filled = _of_each(places, lambda name: substituted(texts[name], inputs))
    return [
        Step(
            name=name,
            place=places[name],
            command=commands[name],
            values=filled[name][0],
            overrides=filled[name][1],
            reads=specs[name].reads,
            parents=specs[name].parents,
        )
        for name in names
    ]


def in_order(specs: Mapping[str, StepSpec], *, source: str, given: Sequence[str] = ()) -> list[str]:
    """Names of the steps, each after what it reads; otherwise in the order they are written.

    Raises:
        ConfigError: A step reads something unknown, or steps read each other in a circle.
    """
    parents = {name: spec.parents for name, spec in specs.items()}
    _require_known(parents, source=source, given=given)
    ordered: list[str] = []
    waiting = list(parents)
    while waiting:
        ready = [name for name in waiting if set(parents[name]) <= {*ordered, *given}]
        if not ready:
            raise ConfigError(
                f"{source}: steps {', '.join(waiting)} read each other in a circle; break it at one"
                " `from`"
            )
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered


def _require_known(
    parents: Mapping[str, Sequence[str]], *, source: str, given: Sequence[str]
) -> None:
    for name, reads in parents.items():
        for parent in reads:
            if parent not in parents and parent not in given:
                known = ", ".join([*given, *(other for other in parents if other != name)])
                raise ConfigError(
                    f"{source}: step '{name}': from: '{parent}' is no step;"
                    f" known: {known or 'none'}"
                )


def _place(source: str, name: str, spec: StepSpec) -> str:
    shown = f" ({spec.config})" if isinstance(spec.config, str) else ""
    return f"{source}: step '{name}'{shown}"


def _of_each(places: Mapping[str, str], find: Callable[[str], FoundT]) -> dict[str, FoundT]:
    """What ``find`` gives for each step; its errors begin with the step's place."""
    found = {}
    for name, place in places.items():
        try:
            found[name] = find(name)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from error
    return found
