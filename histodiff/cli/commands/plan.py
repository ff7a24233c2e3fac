"""``histodiff plan CONFIG.yaml``."""

from histodiff.cli.call import Call
from histodiff.cli.failures import ExitCode
from histodiff.cli.results import print_json
from histodiff.config import find_config, parse_config
from histodiff.config.loader import apply_overrides
from histodiff.errors import ConfigError
from histodiff.workflows.encode.sample import MEASURE_SECONDS
from histodiff.workflows.plan import Rates, plan, resolve_target
from histodiff.workflows.plan_table import as_json, described
from histodiff.workflows.run import summary

RATES_PREFIX = "rates."
MEASURE_PREFIX = "measure_seconds="


def execute(call: Call) -> ExitCode:
    """Prints amounts by step and in all, hours where there are rates, and money with prices."""
    given: dict[str, list[str]] = {RATES_PREFIX: [], MEASURE_PREFIX: [], "": []}
    for item in call.overrides:
        prefix = next(prefix for prefix in given if item.startswith(prefix))
        given[prefix].append(item.removeprefix(prefix))
    rates = parse_config(Rates, apply_overrides({}, given[RATES_PREFIX]), source="rates")
    steps = resolve_target(find_config(call.typed.target), given[""])
    seconds = _measure_seconds(given[MEASURE_PREFIX], asked=call.typed.measure)
    cost = plan(steps, call.site, rates=rates, measure_seconds=seconds)
    if call.typed.as_json:
        print_json(as_json(cost, summary(cost.steps)), out=call.out)
    else:
        print(described(cost), file=call.out)
    return ExitCode.DONE


def _measure_seconds(given: list[str], *, asked: bool) -> float | None:
    """How long to measure; None not to."""
    if not given:
        return MEASURE_SECONDS if asked else None
    try:
        seconds = float(given[-1])
    except ValueError:
        seconds = -1.0
    if not seconds > 0:
        raise ConfigError(f"measure_seconds={given[-1]}: give a positive number of seconds")
    return seconds
