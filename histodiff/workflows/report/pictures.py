"""Pictures of the report as data URIs: the page holds everything it shows.

Photographs are JPEG, figures are PNG. Every picture has an ``alt`` that says what it shows.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from histodiff.evaluation.sentences import words
from histodiff.storage import StoragePath
from histodiff.workflows.report.comparisons import Result, setting_text

Pixels = npt.NDArray[np.uint8]

INK, MUTED, GRID = "#1f2933", "#5f6c7b", "#d9dee5"
COLOURS = ("#4a5568", "#c2703d", "#1f6f8b", "#7a4f9a", "#4d7c3a", "#a23b57")
"""Colours of arms and curves, told apart also by colour-blind readers and in grey."""
_JPEG_QUALITY = 88
_GAP_PX = 4
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9.5, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": GRID, "axes.linewidth": 0.8, "xtick.color": MUTED, "ytick.color": MUTED,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "figure.constrained_layout.use": True,
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture in the page."""

    uri: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Curve:
    """A named line of a figure."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def photograph(pixels: Pixels, *, alt: str, caption: str, max_px: int = 1400) -> Picture:
    """RGB pixels ``(H, W, 3)`` as a JPEG no larger than ``max_px``."""
    image = Image.fromarray(pixels)
    image.thumbnail((max_px, max_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return Picture(_uri("image/jpeg", buffer.getvalue()), alt, caption)


def stored_picture(path: StoragePath, *, alt: str, caption: str, max_px: int = 1400) -> Picture:
    """A picture file of an artifact."""
    image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    return photograph(np.asarray(image), alt=alt, caption=caption, max_px=max_px)


def strip(images_NHWC: Pixels) -> Pixels:
    """Images side by side with white gaps, one row."""
    count, height, width, _ = images_NHWC.shape
    row = np.full((height, count * (width + _GAP_PX) - _GAP_PX, 3), 255, np.uint8)
    for place, image in enumerate(images_NHWC):
        start = place * (width + _GAP_PX)
        row[:, start : start + width] = image
    return row


def effects_figure(
    results: Sequence[Result], values: Mapping[int, Sequence[float]], *, metric: str, alt: str
) -> Picture:
    """One line per result: a dot per seed, the mean, and its interval.

    Args:
        results: Lines, top to bottom.
        values: The single values of each line, by its number.
        metric: Which metric.
        alt: What the figure shows, in words.
    """
    arms = list(dict.fromkeys(result.arm for result in results))
    colour = {arm: COLOURS[place % len(COLOURS)] for place, arm in enumerate(arms)}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.8, 0.7 + 0.3 * len(results)))
        axes = figure.subplots()
        for line, result in enumerate(results):
            interval = result.metrics[metric]
            ink = colour[result.arm]
            if interval.low is not None and interval.high is not None:
                axes.plot([interval.low, interval.high], [line, line], color=ink, linewidth=2)
            seeds = values[line]
            axes.scatter(seeds, [line] * len(seeds), s=14, color=ink, alpha=0.45, linewidths=0)
            axes.scatter([interval.mean], [line], s=42, color=ink, zorder=3)
        names = [
            result.arm + (f"  ({setting_text(result.settings)})" if result.settings else "")
            for result in results
        ]
        axes.set_yticks(range(len(results)), names)
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.invert_yaxis()
        axes.set_xlabel(words(metric))
        axes.grid(visible=False, axis="y")
        return figure_picture(figure, alt=alt, caption="")


def curves_figure(
    curves: Sequence[Curve], *, x: str, y: str, alt: str, caption: str, log: str = ""
) -> Picture:
    """Lines over a common axis; ``log`` names the axes that are logarithmic, such as ``xy``."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.3))
        axes = figure.subplots()
        for place, curve in enumerate(curves):
            marker = "o" if len(curve.x) <= 20 else ""
            axes.plot(
                curve.x, curve.y, color=COLOURS[place % len(COLOURS)], label=curve.name,
                linewidth=1.6, marker=marker, markersize=3.5,
            )  # fmt: skip
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
            if name in log:
                axes.set(**{f"{name}scale": "log"})
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(NullFormatter())
        if len(curves) > 1:
            axes.legend(loc="best")
        return figure_picture(figure, alt=alt, caption=caption)


def figure_picture(figure: Figure, *, alt: str, caption: str) -> Picture:
    """A figure as a PNG in the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=180, facecolor="white")
    return Picture(_uri("image/png", buffer.getvalue()), alt, caption)


def _uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
