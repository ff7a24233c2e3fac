"""``plan``: what a config or a pipeline would take, before anything is spent.

Sums what each command's ``estimate`` says. Hours and money follow from rates that the user gives
(measured with ``bench``); without a rate nothing is made up. What cannot be known before an earlier
step has run is listed as such, never guessed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from histodiff.cluster.site import Site
from histodiff.config import Config, parse_config
from histodiff.config.loader import apply_overrides, read_yaml
from histodiff.errors import ConfigError
from histodiff.workflows.registry import COMMANDS, LoadedCommand, load
from histodiff.workflows.run import StepPlan, load_pipeline, plan_step, resolve_pipeline
from histodiff.workflows.steps import ResolvedStep

PIPELINE_KEYS = {"name", "version", "steps"}
_TOTALLED = ("patches", "bytes", "objects", "requests", "images", "trials")


class Rates(Config):
    """Speeds and prices with which amounts become hours and money."""

    patches_per_second: float | None = Field(default=None, gt=0)
    """Patches encoded per second, all workers (`bench encode`)."""
    images_per_second: float | None = Field(default=None, gt=0)
    """Images trained per second, all ranks (`bench train`)."""
    price_per_hour: float | None = Field(default=None, ge=0)
    """Price of one hour of the whole site."""


@dataclass(frozen=True)
class CostPlan:
    """Every step, their sums, and what could not be known yet."""

    steps: tuple[StepPlan, ...]
    totals: Mapping[str, float]
    unknown: tuple[str, ...]


def resolve_target(path: Path, overrides: Sequence[str] = ()) -> list[ResolvedStep]:
    """The steps of the pipeline in ``path``, or the one command whose config it is.

    Raises:
        ConfigError: It is neither.
    """
    values = apply_overrides(read_yaml(path), overrides)
    if set(values) >= PIPELINE_KEYS and "seeds" not in values:
        return resolve_pipeline(load_pipeline(path, overrides))
    fitting = [command for command in map(load, COMMANDS.values()) if _fits(command, values)]
    if len(fitting) != 1:
        raise ConfigError(
            f"{path}: is no pipeline, and as the config of a command it fits"
            f" {' and '.join(command.name for command in fitting) or 'none'};"
            " `histodiff <command> CONFIG --dry-run` says what is wrong with it"
        )
    config = parse_config(fitting[0].config_class, values, source=str(path))
    return [ResolvedStep(fitting[0].name, fitting[0], config, ())]


def plan(steps: Sequence[ResolvedStep], site: Site, *, rates: Rates) -> CostPlan:
    """What the steps would take on ``site``; computes and downloads nothing."""
    plans = tuple(plan_step(step, site) for step in steps)
    unknown = tuple(_unknown(step) for step in plans if _is_unknown(step))
    return CostPlan(plans, totals(plans, rates), unknown)


def totals(steps: Sequence[StepPlan], rates: Rates) -> dict[str, float]:
    """Sums over the steps, and hours and money where there is a rate."""
    sums: dict[str, float] = {}
    hours = 0.0
    for step in steps:
        amounts = {key: value for key, value in step.estimate.items() if _is_amount(key, value)}
        for key, value in amounts.items():
            sums[key] = sums.get(key, 0.0) + float(value)
        hours += _hours(step.command, step.estimate, rates)
    if hours > 0:
        sums["hours"] = hours
        if rates.price_per_hour is not None:
            sums["cost"] = hours * rates.price_per_hour
    return sums


def _fits(command: LoadedCommand, values: Mapping[str, Any]) -> bool:
    try:
        command.config_class.model_validate(dict(values))
    except ValidationError:
        return False
    return True


def _is_amount(key: str, value: object) -> bool:
    return key in _TOTALLED and isinstance(value, int | float)


def _hours(command: str, estimate: Mapping[str, Any], rates: Rates) -> float:
    if command == "encode" and rates.patches_per_second and "patches" in estimate:
        return float(estimate["patches"]) / rates.patches_per_second / 3600
    if command == "pretrain" and rates.images_per_second and "images" in estimate:
        return float(estimate["images"]) / rates.images_per_second / 3600
    return 0.0


def _is_unknown(step: StepPlan) -> bool:
    return bool(step.missing_inputs) or "unknown" in step.estimate


def _unknown(step: StepPlan) -> str:
    if step.missing_inputs:
        return f"{step.step}: not known before {', '.join(step.missing_inputs)}"
    return f"{step.step}: {step.estimate['unknown']}"
