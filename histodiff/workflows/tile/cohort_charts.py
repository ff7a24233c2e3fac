"""Histograms of the cohort page as inline SVG: no script, sharp in print, read aloud by a label."""

import math
from dataclasses import dataclass

from markupsafe import Markup

from histodiff.data_prep.index.histograms import NUM_BINS, Histogram

_WIDTH, _HEIGHT = 340, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 14, 30
_MAX_TICKS = 6


@dataclass(frozen=True)
class Chart:
    """How one histogram is shown."""

    title: str
    axis: str
    """What is along the axis, with its unit."""
    of: str
    """What is counted, such as ``slides``."""
    percent: bool = False
    octaves: bool = False
    """Values are binary logarithms; the axis shows what they are logarithms of."""
    zeros_apart: bool = False
    """Values of exactly zero are told in words and not drawn."""
    mark: float | None = None
    """A value of the axis that gets a line."""


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels."""

    low: float
    high: float

    def x(self, value: float) -> float:
        inner = _WIDTH - _LEFT - _RIGHT
        return _LEFT + inner * (value - self.low) / (self.high - self.low)


def histogram_svg(histogram: Histogram, chart: Chart) -> Markup:
    """The picture, or an empty string where nothing was counted."""
    drawn = _drawn(histogram, chart)
    if not drawn:
        return Markup()
    axis = _axis(drawn, histogram.width, chart)
    highest = max(drawn.values())
    bars = Markup().join(
        _bar(axis, upper, histogram.width, count, highest, chart) for upper, count in drawn.items()
    )
    base = _HEIGHT - _BOTTOM
    return Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{label}">'
        '<line class="axis" x1="{left}" x2="{right}" y1="{base}" y2="{base}"/>'
        "{bars}{mark}{ticks}"
        '<text class="count" x="{left}" y="10">highest bar: {highest}</text></svg>'
    ).format(
        w=_WIDTH, h=_HEIGHT, label=_spoken(drawn, histogram, chart), left=_LEFT,
        right=_WIDTH - _RIGHT, base=base, bars=bars, mark=_mark(axis, chart),
        ticks=_ticks(axis, chart), highest=f"{highest:,} {chart.of}",
    )  # fmt: skip


def _drawn(histogram: Histogram, chart: Chart) -> dict[float, int]:
    """Counts by upper edge of the bars that are drawn, in order."""
    counts = histogram.counts.copy()
    if not chart.zeros_apart:
        counts[NUM_BINS - 1] += histogram.zeros
    return {
        histogram.upper_edge(number): int(count) for number, count in enumerate(counts) if count
    }


def _axis(drawn: dict[float, int], width: float, chart: Chart) -> _Axis:
    """From zero, or from the first bar where values are negative; logarithms get whole octaves."""
    low, high = min(drawn) - width, max(drawn)
    if chart.octaves:
        wanted = [math.log2(chart.mark)] if chart.mark else []
        return _Axis(math.floor(min([low, *wanted])), math.ceil(max([high, *wanted])))
    if chart.percent and high > 0.5:
        high = 1.0
    return _Axis(min(low, 0.0), high)


def _bar(axis: _Axis, upper: float, width: float, count: int, highest: int, chart: Chart) -> Markup:
    left, right = axis.x(max(axis.low, upper - width)), axis.x(min(axis.high, upper))
    height = max(1.0, (_HEIGHT - _TOP - _BOTTOM) * count / highest)
    return Markup(
        '<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}">'
        "<title>{title}</title></rect>"
    ).format(
        x=left, y=_HEIGHT - _BOTTOM - height, w=max(1.0, right - left - 0.7), h=height,
        title=f"{_value(upper - width, chart)} to {_value(upper, chart)}: {count:,} {chart.of}",
    )  # fmt: skip


def _mark(axis: _Axis, chart: Chart) -> Markup:
    if chart.mark is None:
        return Markup()
    x = axis.x(math.log2(chart.mark) if chart.octaves else chart.mark)
    anchor = "end" if x > _WIDTH * 0.7 else "start"
    return Markup(
        '<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{base}"/>'
        '<text class="mark" x="{tx:.1f}" y="{ty}" text-anchor="{anchor}">wanted</text>'
    ).format(
        x=x, top=_TOP, base=_HEIGHT - _BOTTOM, tx=x + (4 if anchor == "start" else -4),
        ty=_TOP + 8, anchor=anchor,
    )  # fmt: skip


def _ticks(axis: _Axis, chart: Chart) -> Markup:
    step = _step(axis.high - axis.low)
    if chart.octaves:
        step = max(1.0, math.ceil(step))
    first = math.ceil(axis.low / step - 1e-9)
    last = math.floor(axis.high / step + 1e-9)
    return Markup().join(_tick(axis, number * step, chart) for number in range(first, last + 1))


def _tick(axis: _Axis, value: float, chart: Chart) -> Markup:
    x = axis.x(value)
    anchor = "start" if x < _LEFT + 12 else "end" if x > _WIDTH - _RIGHT - 12 else "middle"
    return Markup(
        '<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{end}"/>'
        '<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{text}</text>'
    ).format(
        x=x, base=_HEIGHT - _BOTTOM, end=_HEIGHT - _BOTTOM + 4, y=_HEIGHT - _BOTTOM + 17,
        anchor=anchor, text=_value(value, chart),
    )  # fmt: skip


def _step(length: float) -> float:
    """1, 2 or 5 times a power of ten, so that there are few ticks."""
    rough = length / _MAX_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def _value(value: float, chart: Chart) -> str:
    if chart.octaves:
        return f"{2**value:.3g}"
    if chart.percent:
        return f"{100 * value:.3g} %"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _spoken(drawn: dict[float, int], histogram: Histogram, chart: Chart) -> str:
    """The histogram in words: range and the middle bar."""
    total, passed, middle = sum(drawn.values()), 0, 0.0
    for upper, count in drawn.items():
        passed, middle = passed + count, upper
        if 2 * passed >= total:
            break
    low, high = min(drawn) - histogram.width, max(drawn)
    return (
        f"{chart.title}: {total:,} {chart.of} from {_value(low, chart)} to {_value(high, chart)}"
        f" ({chart.axis}), half of them up to {_value(middle, chart)}."
    )
