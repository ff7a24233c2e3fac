"""``histodiff plan CONFIG.yaml``."""

from typing import Any

import yaml

from histodiff.cli.call import Call
from histodiff.cli.failures import ExitCode
from histodiff.cli.results import print_json
from histodiff.config import find_config, parse_config
from histodiff.config.loader import apply_overrides
from histodiff.workflows.plan import Rates, plan, resolve_target
from histodiff.workflows.run import summary

RATES_PREFIX = "rates."


def execute(call: Call) -> ExitCode:
    """Prints amounts by step and in all; ``rates.<key>=value`` turns them into hours and money."""
    of_rates = [
        item.removeprefix(RATES_PREFIX) for item in call.overrides if item.startswith(RATES_PREFIX)
    ]
    others = [item for item in call.overrides if not item.startswith(RATES_PREFIX)]
    rates = parse_config(Rates, apply_overrides({}, of_rates), source="rates")
    steps = resolve_target(find_config(call.typed.target), others)
    cost = plan(steps, call.site, rates=rates)
    shown: dict[str, Any] = {
        "steps": summary(cost.steps),
        "totals": dict(cost.totals),
        "unknown": list(cost.unknown),
    }
    if call.typed.as_json:
        print_json(shown, out=call.out)
    else:
        print(yaml.safe_dump(shown, sort_keys=False, width=100).rstrip(), file=call.out)
    return ExitCode.DONE
