"""The grid of a sweep: its expansion into artifacts that are each made once.

Only the axes that reach a step or its ancestors multiply it: the control classifier is trained once
per budget and seed, whatever the guidance scales. An artifact is named by the fingerprint of all
that decides it: command, config, and the contents that it reads.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from histodiff.artifacts import CommandConfig, Reference
from histodiff.workflows.resolution import Naming, PlannedStep, ResolvedStep, resolve
from histodiff.workflows.steps import Step, read_steps
from histodiff.workflows.sweep.config import SweepConfig


@dataclass(frozen=True)
class PlannedTrial:
    """One artifact of the sweep: its step, its point in the grid, its config, what it reads."""

    step: str
    axes: Mapping[str, Any]
    seed: int | None
    command: str
    config: CommandConfig
    parents: tuple[Reference, ...]


@dataclass(frozen=True)
class _Reach:
    """What multiplies a step: axes, by name, and whether the seeds do."""

    axes: tuple[str, ...]
    seeded: bool


@dataclass(frozen=True)
class _Point:
    """A step at one point of the grid."""

    axes: Mapping[str, Any]
    seed: int | None
    planned: PlannedStep


def expand(config: SweepConfig, contents: Mapping[str, str]) -> list[PlannedTrial]:
    """Every artifact of the sweep once, each after those that it reads.

    Args:
        config: The sweep.
        contents: Content digest of each of ``config.artifacts`` by its address, where it is known.

    Raises:
        ConfigError: A step's config is wrong at some point of the grid.
    """
    source = f"sweep {config.name}"
    steps = read_steps(config.steps, source=source, inputs={}, given=tuple(config.artifacts))
    points = list(_points(config, steps, _reaches(config, steps)))
    resolved = resolve(
        [point.planned for point in points],
        Naming(config.name, config.version, contents),
        given=config.artifacts,
    )
    return _each_once(points, resolved)


def _reaches(config: SweepConfig, steps: Sequence[Step]) -> dict[str, _Reach]:
    """What multiplies each step: its own fields that are set, and what multiplies its parents."""
    reaches: dict[str, _Reach] = {}
    for step in steps:
        above = [reaches[name] for name in step.parents if name in reaches]
        reaching = {axis for reach in above for axis in reach.axes}
        reaching |= {axis for axis in config.search if _fields(config, axis, step)}
        reaches[step.name] = _Reach(
            axes=tuple(axis for axis in config.search if axis in reaching),
            seeded=_takes_seed(step) or any(reach.seeded for reach in above),
        )
    return reaches


def _points(
    config: SweepConfig, steps: Sequence[Step], reaches: Mapping[str, _Reach]
) -> Iterator[_Point]:
    """Every step at the points of the grid at which it differs."""
    for step in steps:
        reach = reaches[step.name]
        grid = product(*(config.search[axis].values for axis in reach.axes))
        seeds: Sequence[int | None] = config.seeds if reach.seeded else (None,)
        for values, seed in product(grid, seeds):
            axes = dict(zip(reach.axes, values, strict=True))
            keys = {
                name: _key(name, reaches[name], axes, seed)
                for name in (step.name, *step.parents)
                if name in reaches
            }
            settings = _settings(config, step, axes, seed)
            yield _Point(axes, seed, PlannedStep(keys.pop(step.name), step, settings, keys))


def _key(step: str, reach: _Reach, axes: Mapping[str, Any], seed: int | None) -> str:
    """The step, and the part of a point of the grid that reaches it, as text."""
    reaching = {axis: axes[axis] for axis in reach.axes}
    return json.dumps([step, reaching, seed if reach.seeded else None], sort_keys=True)


def _settings(
    config: SweepConfig, step: Step, axes: Mapping[str, Any], seed: int | None
) -> dict[str, Any]:
    """Values by ``key.path`` that the step takes at a point of the grid."""
    settings = {
        field: value for axis, value in axes.items() for field in _fields(config, axis, step)
    }
    return {**settings, "seed": seed} if _takes_seed(step) else settings


def _fields(config: SweepConfig, axis: str, step: Step) -> list[str]:
    """Fields of the step, as ``key.path``, that the axis sets."""
    targets = [target.partition(".") for target in config.search[axis].sets]
    return [field for name, _, field in targets if name == step.name]


def _takes_seed(step: Step) -> bool:
    return "seed" in step.command.config_class.model_fields


def _each_once(points: Sequence[_Point], resolved: Sequence[ResolvedStep]) -> list[PlannedTrial]:
    """The trials; points at which a step has the same config are one."""
    trials: dict[Reference, PlannedTrial] = {}
    for point, step in zip(points, resolved, strict=True):
        trial = PlannedTrial(
            step.name, point.axes, point.seed, step.command.name, step.config, step.parents
        )
        trials.setdefault(step.config.output, trial)
    return list(trials.values())
