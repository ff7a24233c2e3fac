"""A plan for people: a block of lines per step, then the sums and the money."""

from collections.abc import Mapping
from typing import Any

from histodiff.workflows.plan import CostPlan, StepTime
from histodiff.workflows.run import StepPlan

_WIDTH = 16
_NAMES = {
    "units": "shards", "most_picture_bytes": "  pictures <=",
    "most_picture_objects": "  pictures <=", "puts_requests": "  puts", "gets_requests": "  gets",
    "lists_requests": "  lists", "gpu_hours": "GPU-hours", "cpu_hours": "CPU-hours",
    "cost_requests": "  requests", "cost_compute": "  compute", "cost": "cost",
    "cost_storage_month": "storage / month",
}  # fmt: skip
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_COSTS = ("cost", "cost_compute", "cost_requests", "cost_storage_month")


def described(cost: CostPlan) -> str:
    """The plan as lines of text."""
    lines: list[str] = []
    for step in cost.steps:
        lines += [*_step(step, cost.times.get(step.step)), ""]
    amounts = {key: value for key, value in cost.totals.items() if key not in _COSTS}
    lines.append("in all" if len(cost.steps) > 1 else "what it takes")
    shown = amounts if len(cost.steps) > 1 else {k: v for k, v in amounts.items() if "hours" in k}
    lines += [_line(key, value) for key, value in shown.items()]
    if "hours" not in amounts:
        lines.append(_text("time", "not known: add --measure, or rates.patches_per_second=..."))
    lines += _money(cost)
    lines += [f"not known yet  {text}" for text in cost.unknown]
    return "\n".join(lines)


def as_json(cost: CostPlan, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """The plan as JSON-ready values."""
    return {
        "steps": [{**step, "time": _time_json(cost.times.get(step["step"]))} for step in steps],
        "totals": dict(cost.totals),
        "currency": cost.currency,
        "unknown": list(cost.unknown),
    }


def _step(step: StepPlan, took: StepTime | None) -> list[str]:
    lines = [f"{step.step}: {step.command} -> {step.output} ({step.state})"]
    lines += [_line(key, value) for key, value in step.estimate.items()]
    if took is None:
        return lines
    lines.append(_text("time", duration(took.seconds)))
    if took.speed is not None:
        speed = took.speed
        parts = (
            f"start {duration(speed.startup_seconds)}, then"
            f" {speed.patches_per_second:,.1f} patches/s, rest {duration(speed.end_seconds)}"
        )
        lines += [_text("", parts), _text("", f"({speed.source})")]
    return lines


def _money(cost: CostPlan) -> list[str]:
    if cost.currency is None:
        return [_text("cost", "not known: the site gives no `prices`")]
    found = {key: cost.totals[key] for key in _COSTS if key in cost.totals}
    return [_text(_NAMES[key], f"{_amount(value)} {cost.currency}") for key, value in found.items()]


def _amount(value: float) -> str:
    """Money, and less than a coin of it with two digits."""
    return f"{value:,.2f}" if value >= 1 or value == 0 else f"{value:.2g}"


def _line(key: str, value: float | str) -> str:
    name = _NAMES.get(key, key)
    if isinstance(value, str):
        return _text(name, value)
    if key.endswith("bytes"):
        return _text(name, size(value))
    if key == "hours":
        return _text("time", duration(3600 * value))
    return _text(name, f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3g}")


def _text(name: str, value: str) -> str:
    return f"  {name:<{_WIDTH}}{value}"


def size(num_bytes: float) -> str:
    """Bytes in decimal units: ``70.2 MB``."""
    value, power = float(num_bytes), 0
    while value >= 1000 and power < len(_UNITS) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.0f} B" if power == 0 else f"{value:.1f} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``42 s``, ``3 min 20 s``, ``5 h 10 min``."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    hours, left = divmod(minutes, 60)
    return f"{hours:,} h {left} min"


def _time_json(took: StepTime | None) -> Mapping[str, Any] | None:
    if took is None:
        return None
    speed = vars(took.speed) if took.speed else None
    return {"seconds": took.seconds, "workers": took.workers, "speed": speed}
