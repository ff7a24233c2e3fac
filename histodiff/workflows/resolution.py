"""Steps, once they are read, become the commands' own configs, and get the names they write.

One pass over what is planned, parents first: the address of an artifact may depend on its config
(the trials of a sweep are named by fingerprint), and the config of what reads it on the address.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from histodiff.artifacts import CommandConfig, Reference
from histodiff.artifacts.command import Word
from histodiff.artifacts.fingerprint import fingerprint
from histodiff.config import identity, parse_config
from histodiff.config.loader import changed
from histodiff.errors import ConfigError
from histodiff.workflows.registry import LoadedCommand
from histodiff.workflows.steps import Step

_KEY_LENGTH = 10


@dataclass(frozen=True)
class PlannedStep:
    """One artifact that is to be written."""

    key: str
    """Tells it from the others; not part of its name."""
    step: Step
    settings: Mapping[str, Any]
    """Values by ``key.path``, set last (the axes of a sweep)."""
    parents: Mapping[str, str]
    """Name of a step that it reads -> key of the one planned that is meant."""


@dataclass(frozen=True)
class ResolvedStep:
    """A step whose config is complete and valid; ``parents`` are artifacts of steps it reads."""

    name: str
    command: LoadedCommand
    config: CommandConfig
    parents: tuple[Reference, ...]


@dataclass(frozen=True)
class Naming:
    """What the artifacts are called: ``<owner>-<step>@<version>``.

    With ``contents`` (digest of what exists already, by address, where it is known) the fingerprint
    of all that decides an artifact is added: its command, its config, and the contents it reads.
    """

    owner: Word
    version: Word
    contents: Mapping[str, str] | None = None


def resolve(
    planned: Sequence[PlannedStep], naming: Naming, *, given: Mapping[str, Reference]
) -> list[ResolvedStep]:
    """Each of ``planned`` with its config validated, in the same order.

    Args:
        planned: What is to be written, each after what it reads.
        naming: What it is called.
        given: Artifacts that exist already, by the name with which steps read them.

    Raises:
        ConfigError: With the file, the step and the key.
    """
    resolved: dict[str, ResolvedStep] = {}
    for item in planned:
        made_by = {name: resolved[key].config for name, key in item.parents.items()}
        parents = {name: config.output for name, config in made_by.items()}
        config = _config_of(item, naming, {**given, **parents})
        try:
            config.check_planned({made.output: made for made in made_by.values()})
        except ConfigError as error:
            raise ConfigError(f"{item.step.place}: {error}") from error
        step = ResolvedStep(item.step.name, item.step.command, config, tuple(parents.values()))
        resolved[item.key] = step if naming.contents is None else _fingerprinted(step, naming)
    return list(resolved.values())


def _config_of(
    item: PlannedStep, naming: Naming, addresses: Mapping[str, Reference]
) -> CommandConfig:
    step = item.step
    reads = {key: _addresses(names, addresses) for key, names in step.reads.items()}
    name = f"{naming.owner}-{step.name}"
    last = {**reads, **item.settings, "name": name, "version": naming.version}
    try:
        values = changed(step.values, merged=step.overrides, replaced=last)
    except ConfigError as error:
        raise ConfigError(f"{step.place}: {error}") from error
    return parse_config(step.command.config_class, values, source=step.place)


def _addresses(names: str | Sequence[str], known: Mapping[str, Reference]) -> str | list[str]:
    return str(known[names]) if isinstance(names, str) else [str(known[name]) for name in names]


def _fingerprinted(step: ResolvedStep, naming: Naming) -> ResolvedStep:
    contents = naming.contents or {}
    what = {
        "command": step.command.name,
        "config": identity(step.config),
        "inputs": {
            key: contents.get(address, str(address))
            for key, address in step.config.inputs().items()
        },
    }
    name = f"{step.config.name}-{fingerprint(what)[:_KEY_LENGTH]}"
    return replace(step, config=step.config.model_copy(update={"name": name}))
