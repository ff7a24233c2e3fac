"""Outlines of masks as polygons, traced exactly along the borders of pixels.

Only the corners of an outline are touched. In every row of the pixel grid the corners pair up into
horizontal edges, in every column into vertical ones; following pairs in turn walks along the rings.
A piece is what hangs together by the sides of pixels. Where two pixels of one mask touch only
diagonally, rings of different pieces part, and rings of one piece part around the background. So no
ring ever meets itself, every piece has one exterior ring, and the polygons are valid everywhere.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Ring = npt.NDArray[np.int64]
"""Corners ``(n, 2)`` as (x, y), not closed: the last is not the first again."""
Mask = npt.NDArray[np.bool_]
_Labels = npt.NDArray[np.int32]

_LEFT, _RIGHT = 0, 1
_UP, _DOWN = 0, 1


@dataclass(frozen=True)
class Outline:
    """One piece of a mask in its pixel coordinates."""

    exterior: Ring
    """Counter-clockwise by the shoelace formula (clockwise to the eye, as y points down)."""
    holes: tuple[Ring, ...]
    """Clockwise by the shoelace formula."""


def outlines(mask: Mask) -> tuple[Outline, ...]:
    """The pieces of a mask, boolean ``(H, W)``, from the top down."""
    labels, count = ndimage.label(np.pad(np.asarray(mask, dtype=bool), 1))
    rings: list[list[Ring]] = [[] for _ in range(count)]
    for label, ring in _rings(labels):
        # the topmost ring of a piece is found first, and it is the exterior
        rings[label - 1].append(_turned(ring, positive=not rings[label - 1]))
    return tuple(Outline(exterior=first, holes=tuple(holes)) for first, *holes in rings)


def _rings(labels: _Labels) -> list[tuple[int, Ring]]:
    """All rings in the order of their first corners, each with the label of its piece."""
    corners = _corners(labels)
    x, y, across, down, owner = corners.T
    along_row = _partners(np.lexsort((across, x, y))).tolist()
    along_column = _partners(np.lexsort((down, y, x))).tolist()
    seen = np.zeros(len(corners), dtype=bool)
    points = np.stack([x, y], axis=1)
    found = []
    for start in np.lexsort((x, y)).tolist():
        if seen[start]:
            continue
        ring, corner = [], start
        while not seen[corner]:
            other = along_row[corner]
            seen[corner] = seen[other] = True
            ring += [corner, other]
            corner = along_column[other]
        found.append((int(owner[start]), points[ring]))
    return found


def _corners(labels: _Labels) -> npt.NDArray[np.int64]:
    """Corners ``(n, 5)``: x, y, side of the horizontal and of the vertical edge, and the piece."""
    up_left, up_right = labels[:-1, :-1], labels[:-1, 1:]
    down_left, down_right = labels[1:, :-1], labels[1:, 1:]
    found = []
    for pixel, beside, above, opposite, across, down in (
        (up_left, up_right, down_left, down_right, _LEFT, _UP),
        (up_right, up_left, down_right, down_left, _RIGHT, _UP),
        (down_left, down_right, up_left, up_right, _LEFT, _DOWN),
        (down_right, down_left, up_right, up_left, _RIGHT, _DOWN),
    ):
        convex = (pixel != 0) & (beside == 0) & (above == 0) & (opposite != pixel)
        concave = (pixel == 0) & (beside != 0) & (beside == above)
        for where, owner in ((convex, pixel), (concave, beside)):
            y, x = np.nonzero(where)
            sides = np.broadcast_to([across, down], (len(x), 2))
            found.append(np.column_stack([x, y, sides, owner[where]]))
    return np.concatenate(found).astype(np.int64)


def _partners(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The other end of every corner's edge, from the order in which ends follow each other."""
    partners = np.empty_like(order)
    partners[order[::2]], partners[order[1::2]] = order[1::2], order[::2]
    return partners


def _turned(ring: Ring, *, positive: bool) -> Ring:
    following = np.roll(ring, -1, axis=0)
    doubled = np.sum(ring[:, 0] * following[:, 1] - following[:, 0] * ring[:, 1])
    return ring if (doubled > 0) == positive else ring[::-1]
