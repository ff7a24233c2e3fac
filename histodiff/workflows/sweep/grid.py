"""The grid of a sweep: its expansion into artifacts that are each made once.

Only the axes that reach a step or its ancestors multiply it: the control classifier is trained once
per budget and seed, whatever the guidance scales. An artifact is named by the fingerprint of all
that decides it: command, config, and the contents that it reads. The sweep's name is no part of it,
so sweeps of one root share what they have in common.

Where the sweep chooses settings on validation slides, classifiers that the choice is among are
scored on these alone (``expand``); ``expand_chosen`` has those that are compared.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from histodiff.artifacts import CommandConfig, Reference
from histodiff.workflows.resolution import Naming, PlannedStep, ResolvedStep, resolve
from histodiff.workflows.steps import Step, read_steps
from histodiff.workflows.sweep.config import SweepConfig

TRIAL = "trial"
"""First part of the names of trials' artifacts."""
SPLITS = "splits"
"""Field of a classifier that says which splits are scored."""


@dataclass(frozen=True)
class PlannedTrial:
    """One artifact of the sweep: its step, its point in the grid, its config, what it reads."""

    step: str
    axes: Mapping[str, Any]
    seed: int | None
    command: str
    config: CommandConfig
    parents: tuple[Reference, ...]
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """Axes whose values were chosen on validation slides; they are not among ``axes``."""


@dataclass(frozen=True)
class Candidates:
    """Settings that one is chosen of: an arm's step, and its axes that are not chosen."""

    step: str
    axes: Mapping[str, Any]

    @property
    def key(self) -> str:
        """As text: equal candidates have equal keys."""
        return json.dumps([self.step, dict(self.axes)], sort_keys=True)


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
    chosen: Mapping[str, Any] = field(default_factory=dict)


def expand(config: SweepConfig, contents: Mapping[str, str]) -> list[PlannedTrial]:
    """Every artifact of the sweep once, each after those that it reads.

    Args:
        config: The sweep.
        contents: Content digest of each of ``config.artifacts`` by its address, where it is known.

    Raises:
        ConfigError: A step's config is wrong at some point of the grid.
    """
    steps = _steps(config)
    return _resolved(config, contents, list(_points(config, steps, _reaches(config, steps))))


def expand_chosen(
    config: SweepConfig, contents: Mapping[str, str], chosen: Mapping[str, Mapping[str, Any]]
) -> list[PlannedTrial]:
    """The classifiers of the arms at their chosen settings, scored on the test where that is due.

    Args:
        config: The sweep.
        contents: As for ``expand``.
        chosen: Values of the chosen axes by the key of the candidates; where it has none, there is
            no trial.
    """
    steps = _steps(config)
    reaches = _reaches(config, steps)
    points = list(_points(config, steps, reaches))
    final = [
        _chosen_point(config, point, chosen)
        for point in points
        if is_candidate(config, point.planned.step.name, point.axes)
    ]
    trials = _resolved(config, contents, [*points, *filter(None, final)])
    return [trial for trial in trials if trial.chosen]


def is_candidate(config: SweepConfig, step: str, axes: Mapping[str, Any]) -> bool:
    """Whether a trial is one of several settings of an arm that one is chosen of."""
    chosen = config.choose.axes if config.choose else ()
    return any(arm.step == step for arm in config.arms) and any(axis in axes for axis in chosen)


def _has_rivals(config: SweepConfig, axes: Mapping[str, Any]) -> bool:
    """Whether a candidate is one of several; the only one is chosen before it is trained."""
    chosen = config.choose.axes if config.choose else ()
    return any(len(config.search[axis].values) > 1 for axis in chosen if axis in axes)


def candidates_of(config: SweepConfig, step: str, axes: Mapping[str, Any]) -> Candidates:
    """What a trial is a candidate of."""
    chosen = config.choose.axes if config.choose else ()
    return Candidates(step, {name: axes[name] for name in axes if name not in chosen})


def _chosen_point(
    config: SweepConfig, point: _Point, chosen: Mapping[str, Mapping[str, Any]]
) -> _Point | None:
    """The point of the comparison beside one of the choice; None where another was chosen."""
    step = point.planned.step
    among = candidates_of(config, step.name, point.axes)
    values = chosen.get(among.key)
    if values is None or {**among.axes, **values} != dict(point.axes):
        return None
    settings = {**point.planned.settings, SPLITS: _scored_splits(config, step.name)}
    planned = replace(point.planned, key=f"chosen {point.planned.key}", settings=settings)
    return _Point(among.axes, point.seed, planned, values)


def _steps(config: SweepConfig) -> list[Step]:
    source = f"sweep {config.name}"
    return read_steps(config.steps, source=source, inputs={}, given=tuple(config.artifacts))


def _resolved(
    config: SweepConfig, contents: Mapping[str, str], points: Sequence[_Point]
) -> list[PlannedTrial]:
    naming = Naming(TRIAL, config.version, contents)
    planned = [point.planned for point in points]
    return _each_once(points, resolve(planned, naming, given=config.artifacts))


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
        field: config.search[axis].value_of(f"{step.name}.{field}", value)
        for axis, value in axes.items()
        for field in _fields(config, axis, step)
    }
    if _takes_seed(step):
        settings["seed"] = seed
    if config.on_validation and SPLITS in step.command.config_class.model_fields:
        rivals = is_candidate(config, step.name, axes) and _has_rivals(config, axes)
        settings[SPLITS] = ["val"] if rivals else _scored_splits(config, step.name)
    return settings


def _scored_splits(config: SweepConfig, step: str) -> list[str]:
    """Splits that a step's classifiers are scored on in the end: the test if an arm says so."""
    labels = [arm.label for arm in config.arms if arm.step == step]
    tested = config.labels if config.tested is None else config.tested
    return ["val", "test"] if set(labels) & set(tested) else ["val"]


def _fields(config: SweepConfig, axis: str, step: Step) -> list[str]:
    """Fields of the step, as ``key.path``, that the axis sets."""
    targets = [target.partition(".") for target in config.search[axis].targets]
    return [field for name, _, field in targets if name == step.name]


def _takes_seed(step: Step) -> bool:
    return "seed" in step.command.config_class.model_fields


def _each_once(points: Sequence[_Point], resolved: Sequence[ResolvedStep]) -> list[PlannedTrial]:
    """The trials; points at which a step has the same config are one."""
    trials: dict[tuple[Reference, bool], PlannedTrial] = {}
    for point, step in zip(points, resolved, strict=True):
        trial = PlannedTrial(
            step.name, point.axes, point.seed, step.command.name, step.config, step.parents,
            point.chosen,
        )  # fmt: skip
        trials.setdefault((step.config.output, bool(point.chosen)), trial)
    return list(trials.values())
