"""``plan``: what a config or a pipeline would take, before anything is spent.

Sums what each command's ``estimate`` says. Hours follow from rates: those that the user gives, else
a measurement on a sample, else the newest earlier run that fits. Money follows from the site's
prices. Without a rate or a price nothing is made up. What cannot be known before an earlier step
has run is listed as such, never guessed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from histodiff.cluster.site import NoRay, Prices, Site, fewest_ranks
from histodiff.config import Config, parse_config
from histodiff.config.loader import apply_overrides, read_yaml
from histodiff.errors import ConfigError
from histodiff.workflows.encode import EncodeConfig
from histodiff.workflows.encode.amounts import lease_requests
from histodiff.workflows.encode.command import speed
from histodiff.workflows.encode.estimation import with_requests
from histodiff.workflows.encode.sample import num_encoders
from histodiff.workflows.encode.speed import EncodeSpeed
from histodiff.workflows.registry import COMMANDS, LoadedCommand, load
from histodiff.workflows.resolution import ResolvedStep
from histodiff.workflows.run import (
    Pipeline,
    PipelineConfig,
    StepPlan,
    plan_step,
    resolve_pipeline,
)

PIPELINE_KEYS = {"name", "version", "steps"}
_TOTALLED = (
    "patches", "bytes", "objects", "requests", "puts_requests", "gets_requests", "lists_requests",
    "images", "trials",
)  # fmt: skip
_SECONDS_PER_HOUR = 3600.0
_GB = 1e9


class Rates(Config):
    """Speeds with which amounts become hours, given by the user; they win over measured ones."""

    patches_per_second: float | None = Field(default=None, gt=0)
    """Patches encoded per second, all workers."""
    startup_seconds: float = Field(default=0.0, ge=0)
    """Seconds until encoding is under way; with `patches_per_second`."""
    images_per_second: float | None = Field(default=None, gt=0)
    """Images trained per second, all ranks (`bench train`)."""


@dataclass(frozen=True)
class StepTime:
    """How long a step would take, and where that is from."""

    seconds: float
    """Wall time."""
    workers: int
    """GPUs, or CPUs where the site has none, that are held all the time."""
    speed: EncodeSpeed | None
    """What the seconds of an encode step come from."""


@dataclass(frozen=True)
class CostPlan:
    """Every step, how long it takes where that is known, their sums, and what is not known yet."""

    steps: tuple[StepPlan, ...]
    times: Mapping[str, StepTime]
    """By the name of the step."""
    totals: Mapping[str, float]
    currency: str | None
    unknown: tuple[str, ...]


def resolve_target(path: Path, overrides: Sequence[str] = ()) -> list[ResolvedStep]:
    """The steps of the pipeline in ``path``, or the one command whose config it is.

    Raises:
        ConfigError: It is neither.
    """
    values = apply_overrides(read_yaml(path), overrides)
    if set(values) >= PIPELINE_KEYS and "seeds" not in values:
        pipeline = parse_config(PipelineConfig, values, source=str(path))
        return resolve_pipeline(Pipeline(pipeline, str(path)))
    fitting = [command for command in map(load, COMMANDS.values()) if _fits(command, values)]
    if len(fitting) != 1:
        raise ConfigError(
            f"{path}: is no pipeline, and as the config of a command it fits"
            f" {' and '.join(command.name for command in fitting) or 'none'};"
            " `histodiff <command> CONFIG --dry-run` says what is wrong with it"
        )
    config = parse_config(fitting[0].config_class, values, source=str(path))
    return [ResolvedStep(fitting[0].name, fitting[0], config, ())]


def plan(
    steps: Sequence[ResolvedStep],
    site: Site,
    *,
    rates: Rates,
    measure_seconds: float | None = None,
) -> CostPlan:
    """What the steps would take on ``site``.

    Args:
        steps: The steps.
        site: Where they would run.
        rates: What the user knows of speeds.
        measure_seconds: Encodes a sample for about so long; None computes nothing.

    Raises:
        ConfigError: The sample is too small to measure.
    """
    plans: list[StepPlan] = []
    times: dict[str, StepTime] = {}
    for step in steps:
        planned = plan_step(step, site)
        if not _is_unknown(planned):
            took = _time_of(step, planned, site, rates, measure_seconds)
            times |= {step.name: took} if took else {}
        plans.append(_with_lease(planned, times.get(step.name)))
    unknown = tuple(_unknown(step) for step in plans if _is_unknown(step))
    currency = site.prices.currency if site.prices else None
    return CostPlan(tuple(plans), times, totals(plans, times, site), currency, unknown)


def totals(
    steps: Sequence[StepPlan], times: Mapping[str, StepTime], site: Site
) -> dict[str, float]:
    """Sums over the steps; hours where there are times, and money where there are prices."""
    sums: dict[str, float] = {}
    for step in steps:
        amounts = {key: value for key, value in step.estimate.items() if _is_amount(key, value)}
        for key, value in amounts.items():
            sums[key] = sums.get(key, 0.0) + float(value)
    if times:
        hours = {name: took.seconds / _SECONDS_PER_HOUR for name, took in times.items()}
        sums["hours"] = sum(hours.values())
        held = sum(hours[name] * took.workers for name, took in times.items())
        sums["gpu_hours" if site.device == "cuda" else "cpu_hours"] = held
    if site.prices is not None:
        sums |= _costs(sums, site.prices)
    return sums


def _costs(sums: Mapping[str, float], prices: Prices) -> dict[str, float]:
    """Every cost that can be told, and the sum of those that are paid once."""
    held = sums.get("gpu_hours", sums.get("cpu_hours"))
    writing = sums.get("puts_requests", 0.0) + sums.get("lists_requests", 0.0)
    once = {
        "cost_requests": _product(
            (prices.put_1000, writing / 1000),
            (prices.get_1000, sums.get("gets_requests", 0) / 1000),
        )
    }
    if held is not None:
        per_site = prices.site_hour is not None
        amount = sums["hours"] if per_site else held
        price = prices.site_hour if per_site else prices.worker_hour
        once["cost_compute"] = _product((price, amount))
    known = {key: value for key, value in once.items() if value is not None}
    if known:
        known["cost"] = sum(known.values())
    stored = _product((prices.gb_month, sums.get("bytes", 0.0) / _GB))
    return known | ({} if stored is None else {"cost_storage_month": stored})


def _product(*pairs: tuple[float | None, float]) -> float | None:
    """Sum of price times amount over the prices that are given; None if none is."""
    given = [price * amount for price, amount in pairs if price is not None]
    return sum(given) if given else None


def _with_lease(planned: StepPlan, took: StepTime | None) -> StepPlan:
    """With the requests that keep the driver's lease, where it is known for how long."""
    if took is None:
        return planned
    return replace(planned, estimate=with_requests(planned.estimate, lease_requests(took.seconds)))


def _time_of(
    step: ResolvedStep,
    planned: StepPlan,
    site: Site,
    rates: Rates,
    measure_seconds: float | None,
) -> StepTime | None:
    if isinstance(step.config, EncodeConfig):
        return _encode_time(step.config, planned, site, rates, measure_seconds)
    images = planned.estimate.get("images")
    if planned.command == "pretrain" and rates.images_per_second and images is not None:
        return StepTime(float(images) / rates.images_per_second, fewest_ranks(site.ranks), None)
    return None


def _encode_time(
    config: EncodeConfig,
    planned: StepPlan,
    site: Site,
    rates: Rates,
    measure_seconds: float | None,
) -> StepTime | None:
    found: EncodeSpeed | None
    if rates.patches_per_second is not None:
        found = EncodeSpeed(rates.patches_per_second, rates.startup_seconds)
    else:
        found = speed(config, site, measure_seconds=measure_seconds)
    if found is None:
        return None
    shards = int(planned.estimate["units"])
    encoders = num_encoders(site, shards)
    seconds = found.seconds(
        patches=int(planned.estimate["patches"]), shards=shards, encoders=encoders
    )
    readers = 0 if isinstance(site.ray, NoRay) else site.reader_workers
    workers = encoders if site.device == "cuda" else encoders * config.threads + readers
    return StepTime(seconds, workers, found)


def _fits(command: LoadedCommand, values: Mapping[str, Any]) -> bool:
    try:
        command.config_class.model_validate(dict(values))
    except ValidationError:
        return False
    return True


def _is_amount(key: str, value: object) -> bool:
    return key in _TOTALLED and isinstance(value, int | float)


def _is_unknown(step: StepPlan) -> bool:
    return bool(step.missing_inputs) or "unknown" in step.estimate


def _unknown(step: StepPlan) -> str:
    if step.missing_inputs:
        return f"{step.step}: not known before {', '.join(step.missing_inputs)}"
    return f"{step.step}: {step.estimate['unknown']}"
