"""``run``: a pipeline, which is a YAML file of steps, each one command.

Steps run in the order of what they read. Each writes ``{kind}/{pipeline}-{step}@{version}`` and is
idempotent, so the same command again continues where the last one stopped.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from histodiff.artifacts import Artifact, CommandConfig, Reference, is_finished, open_artifact
from histodiff.artifacts.artifact import PLAN, is_dev
from histodiff.artifacts.command import Word
from histodiff.cluster.site import Site
from histodiff.config import Config, identity, load_config
from histodiff.errors import ArtifactNotFound, HistodiffError
from histodiff.storage import StoragePath
from histodiff.workflows.registry import Estimate
from histodiff.workflows.resolution import Naming, PlannedStep, ResolvedStep, resolve
from histodiff.workflows.steps import StepSpec, read_steps
from histodiff.workflows.sweep.config import SweepConfig
from histodiff.workflows.sweep.grid import expand


class PipelineConfig(Config):
    """A pipeline: named inputs and the steps that turn them into artifacts."""

    name: Word
    """First part of the name of every artifact that is written."""
    version: Word
    """Version of every artifact that is written; `dev` is rebuilt when a config changes."""
    inputs: dict[str, str | None] = Field(default={})
    """Values for `${inputs.<name>}`; null means that the user must give `inputs.<name>=...`."""
    steps: dict[Word, StepSpec]
    """The steps by name."""


@dataclass(frozen=True)
class Pipeline:
    """A pipeline and the file it comes from."""

    config: PipelineConfig
    source: str


@dataclass(frozen=True)
class StepPlan:
    """What a dry run says of one step.

    ``state`` is ``done``, ``started``, ``missing``, or ``differs`` (the settings changed since);
    ``missing_inputs`` are artifacts that an earlier step has yet to write.
    """

    step: str
    command: str
    output: Reference
    state: str
    missing_inputs: tuple[str, ...]
    estimate: Estimate


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """The pipeline in ``path``, with ``inputs.<name>=...`` and other overrides applied."""
    return Pipeline(load_config(PipelineConfig, path, overrides), str(path))


def resolve_pipeline(pipeline: Pipeline) -> list[ResolvedStep]:
    """Every step with its validated config, in the order they run.

    Raises:
        ConfigError: Any step is wrong; nothing has been run yet.
    """
    config = pipeline.config
    steps = read_steps(config.steps, source=pipeline.source, inputs=config.inputs)
    planned = [PlannedStep(s.name, s, {}, {name: name for name in s.parents}) for s in steps]
    resolved = resolve(planned, Naming(config.name, config.version), given={})
    for step in resolved:
        if isinstance(step.config, SweepConfig):
            expand(step.config, {})  # a mistake in a trial shows now, not after the pre-training
    return resolved


def run_pipeline(pipeline: Pipeline, site: Site) -> list[Artifact]:
    """Runs every step and stops at the first error; returns their artifacts in order."""
    steps = resolve_pipeline(pipeline)
    artifacts: list[Artifact] = []
    for number, step in enumerate(steps, start=1):
        _say(f"[{number}/{len(steps)}] {step.name}: {step.command.name} -> {step.config.output}")
        artifact = step.command.function(step.config, site)
        if artifact.manifest.failed:
            count = len(artifact.manifest.failed)
            _say(f"    {count} units failed; see {artifact.path}/manifest.json")
        artifacts.append(artifact)
    return artifacts


def plan_pipeline(pipeline: Pipeline, site: Site) -> Iterator[StepPlan]:
    """What each step would do, without doing it."""
    return (plan_step(step, site) for step in resolve_pipeline(pipeline))


def plan_step(step: ResolvedStep, site: Site) -> StepPlan:
    """What one step would do, without doing it."""
    root = site.storage_root
    addresses = dict.fromkeys(step.config.inputs().values())
    missing = tuple(str(address) for address in addresses if not is_finished(root, address))
    return StepPlan(
        step=step.name,
        command=step.command.name,
        output=step.config.output,
        state=state_of(step.config, root),
        missing_inputs=missing,
        estimate=estimate_of(step, site) if not missing else {},
    )


def estimate_of(step: ResolvedStep, site: Site) -> Estimate:
    """The command's own estimate, or why there is none."""
    try:
        return step.command.estimate(step.config, site)
    except HistodiffError as error:
        return {"unknown": str(error)}


def state_of(config: CommandConfig, root: StoragePath) -> str:
    """``done``, ``started``, ``missing`` or ``differs``: the artifact that ``config`` writes."""
    try:
        found = open_artifact(root, config.output).manifest.config
    except ArtifactNotFound:
        return "started" if (root / config.output.folder / PLAN).exists() else "missing"
    try:
        same = identity(type(config).model_validate(found)) == identity(config)
    except ValidationError:
        same = False
    if same:
        return "done"
    return "differs (will be rebuilt)" if is_dev(config.version) else "differs (choose a version)"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def summary(plans: Sequence[StepPlan]) -> list[dict[str, Any]]:
    """The plans as JSON-ready values."""
    return [
        {
            "step": plan.step,
            "command": plan.command,
            "output": str(plan.output),
            "state": plan.state,
            "missing_inputs": list(plan.missing_inputs),
            "estimate": plan.estimate,
        }
        for plan in plans
    ]
