"""Annotated areas of a slide, and what they cover: rasters, and labels of patches.

Everything is scan lines: the edges of all polygons are cut with horizontal lines, and the cuts of
one polygon on one line pair up into spans that are inside (even-odd rule, so holes need no care).
Lines are half open, so that areas side by side share no point and miss none. Polygons of one label
that overlap count once.

A raster takes the pixels whose centres are inside. Coverage of a patch is exact along x and sampled
on 64 lines down the patch, so that a level edge may count up to 1/128 of the patch off.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
"""A ring: ``(n, 2)`` as (x, y) in level-0 pixels; the last point is joined to the first."""
Mask = npt.NDArray[np.bool_]
_Numbers = npt.NDArray[np.float64]

LINES_PER_PATCH = 64
_ROWS_PER_CHUNK = 32
_EPSILON = 1e-9


@dataclass(frozen=True)
class Polygon:
    """An area with holes."""

    exterior: Points
    holes: tuple[Points, ...] = ()


@dataclass(frozen=True)
class Annotation:
    """Areas of a slide that somebody gave a label."""

    label: str
    polygons: tuple[Polygon, ...]


@dataclass(frozen=True)
class _Edges:
    """Edges that are not level, upper end first; all arrays ``(n,)``."""

    x0: _Numbers
    y0: _Numbers
    x1: _Numbers
    y1: _Numbers
    polygon: npt.NDArray[np.int64]
    """Number of the polygon."""


@dataclass(frozen=True)
class _Spans:
    """Pieces of scan lines inside of polygons; all arrays ``(n,)``."""

    line: npt.NDArray[np.int64]
    left: _Numbers
    right: _Numbers


def rasterize(
    annotations: Iterable[Annotation],
    *,
    x: float,
    y: float,
    width: int,
    height: int,
    downsample: float,
) -> dict[str, Mask]:
    """For every label the pixels whose centres are annotated, boolean ``(height, width)``.

    Args:
        annotations: In level-0 pixels.
        x: Level-0 place of the raster's left side.
        y: Level-0 place of its top.
        width: In pixels of the raster.
        height: In pixels of the raster.
        downsample: Level-0 pixels per pixel of the raster.
    """
    lines: _Numbers = y + (np.arange(height, dtype=np.float64) + 0.5) * downsample
    masks = {}
    for label, edges in _edges_by_label(annotations).items():
        spans = _spans(edges, lines)
        depth = np.zeros((height, width + 1), dtype=np.int32)
        for ends, step in ((spans.left, 1), (spans.right, -1)):
            columns = np.ceil((ends - x) / downsample - 0.5)
            np.add.at(depth, (spans.line, np.clip(columns, 0, width).astype(np.int64)), step)
        masks[label] = np.cumsum(depth, axis=1)[:, :width] > 0
    return masks


def patch_labels(
    annotations: Iterable[Annotation],
    corners: npt.NDArray[np.int64],
    *,
    side_w: float,
    side_h: float,
    min_coverage: float,
) -> list[str | None]:
    """The label that covers most of each patch, None where none covers ``min_coverage``.

    Of labels that cover the same the first in alphabetical order is taken.

    Args:
        annotations: In level-0 pixels.
        corners: Top-left corners of the patches ``(n, 2)`` as (x, y) in level-0 pixels.
        side_w: Width of a patch in level-0 pixels.
        side_h: Height of a patch in level-0 pixels.
        min_coverage: Least fraction of the patch, above 0 and up to 1.
    """
    coverage = patch_coverage(annotations, corners, side_w=side_w, side_h=side_h)
    labels = sorted(coverage)
    if not labels:
        return [None] * len(corners)
    fractions = np.stack([coverage[label] for label in labels]).round(9)
    best = fractions.argmax(axis=0)
    enough = fractions.max(axis=0) >= max(min_coverage - _EPSILON, _EPSILON)
    return [labels[number] if ok else None for number, ok in zip(best, enough, strict=True)]


def patch_coverage(
    annotations: Iterable[Annotation],
    corners: npt.NDArray[np.int64],
    *,
    side_w: float,
    side_h: float,
) -> dict[str, _Numbers]:
    """For every label the fraction of each patch that it covers, ``(n,)``."""
    coverage = {}
    for label, edges in _edges_by_label(annotations).items():
        coverage[label] = np.zeros(len(corners))
        for chosen in _chunks(corners):
            coverage[label][chosen] = _covered(edges, corners[chosen], side_w, side_h)
    return coverage


def _chunks(corners: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Numbers of patches that lie in a few rows of the grid: bounds what is held in memory."""
    order = np.argsort(corners[:, 1], kind="stable")
    rows = np.flatnonzero(np.diff(corners[order, 1], prepend=np.nan))
    yield from (
        part for part in np.split(order, rows[_ROWS_PER_CHUNK::_ROWS_PER_CHUNK]) if part.size
    )


def _covered(
    edges: _Edges, corners: npt.NDArray[np.int64], side_w: float, side_h: float
) -> _Numbers:
    """Mean covered length of the lines through each patch, relative to its width."""
    down = (np.arange(LINES_PER_PATCH) + 0.5) / LINES_PER_PATCH * side_h
    lines, number = np.unique(corners[:, 1:] + down, return_inverse=True)
    left, right = corners[:, 0].min(), corners[:, 0].max() + side_w
    pitch = right - left + 1.0
    spans = _spans(edges, lines)
    # all lines one after the other, so that one sum and one look-up do for all
    starts = np.clip(spans.left, left, right) - left + spans.line * pitch
    stops = np.clip(spans.right, left, right) - left + spans.line * pitch
    places, covered = _covered_until(starts, stops)
    begin = number.reshape(len(corners), -1) * pitch + (corners[:, :1] - left)
    inside = np.interp(begin + side_w, places, covered) - np.interp(begin, places, covered)
    return np.asarray(inside.mean(axis=1) / side_w)


def _covered_until(starts: _Numbers, stops: _Numbers) -> tuple[_Numbers, _Numbers]:
    """Places where coverage changes, and the length that is covered up to each."""
    if not starts.size:
        return np.zeros(1), np.zeros(1)
    places = np.concatenate([starts, stops])
    steps = np.repeat([1, -1], len(starts))
    order = np.argsort(places, kind="stable")
    places, depth = places[order], np.cumsum(steps[order])
    lengths = np.diff(places) * (depth[:-1] > 0)
    return places, np.concatenate([[0.0], np.cumsum(lengths)])


def _edges_by_label(annotations: Iterable[Annotation]) -> dict[str, _Edges]:
    polygons: dict[str, list[Polygon]] = {}
    for annotation in annotations:
        polygons.setdefault(annotation.label, []).extend(annotation.polygons)
    return {label: _edges(polygons[label]) for label in sorted(polygons)}


def _edges(polygons: Sequence[Polygon]) -> _Edges:
    parts = [np.empty((0, 4))]
    numbers = [np.empty(0, dtype=np.int64)]
    for number, polygon in enumerate(polygons):
        for ring in (polygon.exterior, *polygon.holes):
            parts.append(np.column_stack([ring, np.roll(ring, -1, axis=0)]))
            numbers.append(np.full(len(ring), number))
    ends, polygon_of = np.concatenate(parts), np.concatenate(numbers)
    # one direction for all, so that an edge that two polygons share is cut at the same places
    ends = np.where(ends[:, 1:2] <= ends[:, 3:4], ends, ends[:, [2, 3, 0, 1]])
    steep = ends[:, 1] < ends[:, 3]
    x0, y0, x1, y1 = ends[steep].T
    return _Edges(x0=x0, y0=y0, x1=x1, y1=y1, polygon=polygon_of[steep])


def _spans(edges: _Edges, lines: _Numbers) -> _Spans:
    """What of sorted horizontal lines is inside."""
    first = np.searchsorted(lines, edges.y0)
    counts = np.searchsorted(lines, edges.y1) - first
    edge = np.repeat(np.arange(len(counts)), counts)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    slope = (edges.x1 - edges.x0) / (edges.y1 - edges.y0)
    cut = edges.x0[edge] + (lines[line] - edges.y0[edge]) * slope[edge]
    order = np.lexsort((cut, line, edges.polygon[edge]))
    return _Spans(line=line[order][::2], left=cut[order][::2], right=cut[order][1::2])
