"""The grid of a sweep: its config, and its expansion into artifacts that are each made once.

Only the axes that reach a step or its ancestors multiply it: the control classifier is trained once
per budget and seed, whatever the guidance scales. An artifact is named by the fingerprint of all
that decides it: command, config, and the contents that it reads.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from histodiff.artifacts import CommandConfig, Kind, Reference
from histodiff.artifacts.command import Word
from histodiff.artifacts.fingerprint import fingerprint
from histodiff.config import Config, Location, identity
from histodiff.workflows.registry import find_command, load
from histodiff.workflows.steps import (
    ResolvedStep,
    Scope,
    StepSpec,
    in_order,
    output_name,
    parents_of,
    resolve_step,
)

_KEY_LENGTH = 10


class Axis(Config):
    """One axis of the grid: fields that take the same value together."""

    sets: tuple[str, ...] = Field(min_length=1)
    """The fields, as `<step>.<key.path>`."""
    values: tuple[Any, ...] = Field(min_length=1)
    """The values that they take."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({json.dumps(value, sort_keys=True) for value in self.values}) < len(self.values):
            raise ValueError(f"values {list(self.values)} repeat; give each value once")
        return self


class Arm(Config):
    """One arm of the comparison: the classifiers of one step."""

    label: str
    """What the table calls it."""
    step: Word
    """A classify step."""


class SweepConfig(CommandConfig):
    """Config of ``sweep``."""

    artifact_kind: ClassVar[Kind] = Kind.SWEEPS

    artifacts: Annotated[dict[str, Reference], Location()]
    """Finished artifacts that steps may read, by a name of your choice: `kind/name@version`."""
    steps: dict[Word, StepSpec]
    """The steps, as in a pipeline; `from` names a step or one of `artifacts`."""
    search: dict[Word, Axis] = Field(default={})
    """The axes by name."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Seeds; each is set as `seed` on every step that has one."""
    arms: tuple[Arm, ...] = Field(min_length=1)
    """What is compared, in the order of the table."""
    control: str
    """Label of the arm that the others are compared with."""

    @model_validator(mode="after")
    def _named_well(self) -> Self:
        for name, reference in self.artifacts.items():
            if "/" not in reference:
                raise ValueError(f"artifacts.{name}: '{reference}': write it as kind/name@version")
            if name in self.steps:
                raise ValueError(f"artifacts.{name}: a step has the same name; rename one")
        for axis, fields in self.search.items():
            for target in fields.sets:
                if target.partition(".")[0] not in self.steps:
                    raise ValueError(
                        f"search.{axis}.sets: '{target}' must begin with a step:"
                        f" {', '.join(self.steps)}"
                    )
        return self

    @model_validator(mode="after")
    def _compared_well(self) -> Self:
        for arm in self.arms:
            if arm.step not in self.steps:
                raise ValueError(f"arms: '{arm.label}': '{arm.step}' is no step")
        if self.control not in self.labels:
            raise ValueError(f"control: '{self.control}' is none of arms: {', '.join(self.labels)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} repeat; give each seed once")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the arms, in order."""
        return tuple(arm.label for arm in self.arms)

    @property
    def control_step(self) -> str:
        """The step of the control."""
        return next(arm.step for arm in self.arms if arm.label == self.control)

    def inputs(self) -> dict[str, Reference]:
        return {f"artifacts.{name}": reference for name, reference in self.artifacts.items()}


@dataclass(frozen=True)
class PlannedTrial:
    """One artifact of the sweep: its step, its point in the grid, its config, what it reads."""

    step: str
    axes: Mapping[str, Any]
    seed: int | None
    command: str
    config: CommandConfig
    parents: tuple[Reference, ...]


def expand(config: SweepConfig, contents: Mapping[str, str]) -> list[PlannedTrial]:
    """Every artifact of the sweep once, each after those that it reads.

    Args:
        config: The sweep.
        contents: Content digest of each of ``config.artifacts`` by its address, where it is known.

    Raises:
        ConfigError: A step's config is wrong at some point of the grid.
    """
    source = f"sweep {config.name}"
    planned: dict[Reference, PlannedTrial] = {}
    address_at: dict[tuple[str, str], Reference] = {}
    for name in in_order(config.steps, source=source, given=tuple(config.artifacts)):
        for axes, seed in _points(config, name):
            addresses = dict(config.artifacts)
            parents = [step for step in parents_of(config.steps[name]) if step in config.steps]
            for parent in parents:
                addresses[parent] = address_at[parent, _point(config, parent, axes, seed)]
            step = _resolved(config, name, Scope(source, {}, addresses), _At(axes, seed, contents))
            address_at[name, _point(config, name, axes, seed)] = step.config.output
            reads = tuple(addresses[parent] for parent in parents)
            trial = PlannedTrial(name, axes, seed, step.command.name, step.config, reads)
            planned.setdefault(step.config.output, trial)
    return list(planned.values())


@dataclass(frozen=True)
class _At:
    """A point of the grid, and the contents of the artifacts that the sweep reads there."""

    axes: Mapping[str, Any]
    seed: int | None
    contents: Mapping[str, str]


def _resolved(config: SweepConfig, name: str, scope: Scope, at: _At) -> ResolvedStep:
    """The step at one point of the grid, named by the fingerprint of all that decides it."""
    settings = {
        target.partition(".")[2]: at.axes[axis]
        for axis, fields in config.search.items()
        for target in fields.sets
        if target.partition(".")[0] == name
    }
    if _takes_seed(config.steps[name]):
        settings["seed"] = at.seed
    draft = resolve_step(
        name, config.steps[name], scope, output=("draft", config.version), settings=settings
    )
    what = {
        "command": draft.command.name,
        "config": identity(draft.config),
        "inputs": {
            key: at.contents.get(address, str(address))
            for key, address in draft.config.inputs().items()
        },
    }
    key = f"{output_name(config.name, name)}-{fingerprint(what)[:_KEY_LENGTH]}"
    return ResolvedStep(
        name, draft.command, draft.config.model_copy(update={"name": key}), draft.parents
    )


def _points(config: SweepConfig, step: str) -> list[tuple[dict[str, Any], int | None]]:
    """The points of the grid at which ``step`` differs: (axis -> value, seed)."""
    axes = _axes_reaching(config, step)
    seeds: Sequence[int | None] = config.seeds if _seeded(config, step) else (None,)
    grid = product(*(config.search[axis].values for axis in axes))
    return [(dict(zip(axes, values, strict=True)), seed) for values in grid for seed in seeds]


def _point(config: SweepConfig, step: str, axes: Mapping[str, Any], seed: int | None) -> str:
    """The part of a point of the grid that reaches ``step``, as text."""
    reaching = {axis: axes[axis] for axis in _axes_reaching(config, step)}
    return json.dumps([reaching, seed if _seeded(config, step) else None], sort_keys=True)


def _lineage(config: SweepConfig, step: str) -> set[str]:
    """The step and all steps that it reads, directly or not."""
    parents = [name for name in parents_of(config.steps[step]) if name in config.steps]
    return {step}.union(*(_lineage(config, parent) for parent in parents))


def _axes_reaching(config: SweepConfig, step: str) -> list[str]:
    lineage = _lineage(config, step)
    return [
        axis
        for axis, fields in config.search.items()
        if any(target.partition(".")[0] in lineage for target in fields.sets)
    ]


def _seeded(config: SweepConfig, step: str) -> bool:
    return any(_takes_seed(config.steps[name]) for name in _lineage(config, step))


def _takes_seed(spec: StepSpec) -> bool:
    return "seed" in load(find_command(spec.command)).config_class.model_fields
