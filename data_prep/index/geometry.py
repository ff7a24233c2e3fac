"""Where patches lie: the read plan at a wanted scale, the grid of a slide, the crops of an image.

Scale is microns per pixel (mpp) only, in x and in y. A patch is read from the coarsest level that
is fine enough and shrunk once; more detail than there is is TOO_COARSE, never an enlargement. Small
images of patch sets alone may be enlarged or padded, where their source says so.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.index.coordinates import ImportedGrid
from histodiff.data_prep.readers.reader import SlideInfo
from histodiff.data_prep.readers.thumbnails import best_level
from histodiff.errors import ConfigError, SkipReason, SlideError

MPP_TOLERANCE = 0.01
"""Largest relative difference between wanted and effective mpp."""
MAX_PATCHES = 5_000_000
"""Most patches of one slide: more is a mistake in ``stride_px``, and would not fit into memory."""

Fit = Literal["crop", "resize", "enlarge", "pad"]
"""How an image of a patch set becomes patches; see ``image_regions``."""
Phase = Literal["aligned", "origin"]


@dataclass(frozen=True)
class ReadPlan:
    """How every patch of a slide is read. Width and height differ where mpp in x and y do."""

    level: int
    read_width: int
    read_height: int
    """Size read, in pixels of ``level``."""
    width: int
    height: int
    """The same in level-0 pixels, rounded up."""
    effective_mpp_x: float
    effective_mpp_y: float
    """Microns per pixel after shrinking to ``patch_px``."""


@dataclass(frozen=True)
class Grid:
    """Where the patches of a slide lie."""

    corners: npt.NDArray[np.int64]
    """Level-0 corners ``(n, 2)`` as (x, y), row by row."""
    phase: Phase
    """``aligned``: corners lie on the lattice of the slide's own tiles."""


@dataclass(frozen=True)
class Region:
    """What a patch shows of an image of a patch set, in the image's own pixels."""

    x: int
    y: int
    width: int
    height: int
    """A square, unless it is padded to one."""
    effective_mpp: float | None


def read_plan(
    info: SlideInfo, *, slide_mpp: tuple[float, float], mpp: float, patch_px: int
) -> ReadPlan:
    """How to read patches of ``patch_px`` at ``mpp`` from a slide that has ``slide_mpp`` (x, y).

    Raises:
        SlideError: TOO_COARSE: the slide has less detail than is wanted. TOO_SMALL: so few pixels
            cannot have the wanted scale to 1 %.
    """
    _check_detail(max(slide_mpp), mpp)
    coarsest = best_level(info.level_downsamples, mpp / max(slide_mpp))
    own = info.level_downsamples
    finer = sorted((k for k in range(len(own)) if own[k] <= own[coarsest]), key=lambda k: -own[k])
    for level in finer:  # the coarsest has least to read; a finer one may be cut more exactly
        plan = _plan_at(level, own[level], slide_mpp, mpp, patch_px)
        if same_scale(plan.effective_mpp_x, mpp) and same_scale(plan.effective_mpp_y, mpp):
            return plan
    raise SlideError(
        SkipReason.TOO_SMALL,
        f"patches of {patch_px} px cannot be cut at {mpp:g} um/px to 1 % from"
        f" {slide_mpp[0]:.4g} x {slide_mpp[1]:.4g}; raise patch_px",
    )


def _plan_at(
    level: int, own: float, slide_mpp: tuple[float, float], mpp: float, patch_px: int
) -> ReadPlan:
    read_width, read_height = (
        max(patch_px, round(patch_px * mpp / (each * own))) for each in slide_mpp
    )
    return ReadPlan(
        level=level,
        read_width=read_width,
        read_height=read_height,
        width=int(np.ceil(read_width * own - 1e-6)),
        height=int(np.ceil(read_height * own - 1e-6)),
        effective_mpp_x=slide_mpp[0] * own * read_width / patch_px,
        effective_mpp_y=slide_mpp[1] * own * read_height / patch_px,
    )


def slide_grid(
    info: SlideInfo, plan: ReadPlan, *, patch_px: int, stride_px: int, phase: Phase
) -> Grid:
    """All whole patches inside the scanned bounds.

    With ``phase: aligned`` the grid starts on the lattice of the slide's tiles where its step fits
    them (a multiple or a divisor of the tile), so that no tile is decoded for a sliver of a patch.

    Raises:
        SlideError: TOO_SMALL: not one patch fits. UNREADABLE: more than `MAX_PATCHES` do, beside
            each other.
        ConfigError: There are more than `MAX_PATCHES` because they overlap.
    """
    own = info.level_downsamples[plan.level]
    tile = info.level_tiles[plan.level]
    step = (plan.read_width * stride_px / patch_px, plan.read_height * stride_px / patch_px)
    aligned = phase == "aligned" and tile is not None and all(map(_fits, step, tile))
    lattice = step if aligned else (0.0, 0.0)
    xs = _starts(info.bounds_x / own, info.bounds_width / own, plan.read_width, step[0], lattice[0])
    ys = _starts(
        info.bounds_y / own, info.bounds_height / own, plan.read_height, step[1], lattice[1]
    )
    if not len(xs) or not len(ys):
        raise SlideError(
            SkipReason.TOO_SMALL,
            f"{info.bounds_width}x{info.bounds_height} px hold no patch of"
            f" {plan.width}x{plan.height} px; lower patch_px or mpp",
        )
    apart = (info.bounds_width // plan.width) * (info.bounds_height // plan.height)
    if apart > MAX_PATCHES:  # one absurd slide must not end the run of all others
        raise SlideError(
            SkipReason.UNREADABLE,
            f"{info.bounds_width}x{info.bounds_height} px hold {apart:,} patches, and at most"
            f" {MAX_PATCHES:,} of a slide are taken; is its header damaged? Else raise patch_px"
            " or mpp",
        )
    if len(xs) * len(ys) > MAX_PATCHES:
        raise ConfigError(
            f"stride_px {stride_px} gives {len(xs) * len(ys):,} patches on one slide of"
            f" {info.bounds_width}x{info.bounds_height} px, and at most {MAX_PATCHES:,} are taken;"
            " raise stride_px or mpp"
        )
    grid_y, grid_x = np.meshgrid(ys, xs, indexing="ij")
    level_corners = np.stack([grid_x.ravel(), grid_y.ravel()], axis=1)
    corners = np.round(level_corners * own).astype(np.int64)
    return Grid(corners, "aligned" if aligned else "origin")


def imported_grid(
    imported: ImportedGrid,
    info: SlideInfo,
    *,
    slide_mpp: tuple[float, float],
    mpp: float,
    patch_px: int,
) -> tuple[ReadPlan, Grid]:
    """The plan and the places of patches that another program chose; none is moved.

    Raises:
        SlideError: UNREADABLE: the coordinates are of another slide, or of patches of another
            scale. TOO_COARSE or TOO_SMALL as in ``read_plan``.
    """
    width, height = info.width, info.height
    if imported.level0_size not in (None, (width, height)):
        raise SlideError(
            SkipReason.UNREADABLE,
            f"the coordinates are of a slide of {imported.level0_size}, this one has"
            f" {(width, height)}; give those of this slide",
        )
    theirs = imported.side * max(slide_mpp) / patch_px
    if not same_scale(theirs, mpp):
        raise SlideError(
            SkipReason.UNREADABLE,
            f"the coordinates are of patches of {imported.side} px, which is {theirs:.4g} um/px at"
            f" {patch_px} px, not {mpp:g}; set mpp (or patch_px) to theirs",
        )
    plan = read_plan(info, slide_mpp=slide_mpp, mpp=mpp, patch_px=patch_px)
    room = np.array([width - plan.width, height - plan.height])
    beyond = (imported.corners > room).any(axis=1)
    if beyond.any():
        x, y = imported.corners[beyond][0]
        raise SlideError(
            SkipReason.UNREADABLE,
            f"the patch at ({x}, {y}) reaches beyond the slide's {width}x{height} px; give the"
            " coordinates of this slide",
        )
    own = info.level_downsamples[plan.level]
    whole = (imported.corners % own == 0).all() if own == round(own) else False
    return (plan if whole else _at_full_resolution(plan, slide_mpp, mpp, patch_px)), Grid(
        imported.corners, "origin"
    )


def _at_full_resolution(
    plan: ReadPlan, slide_mpp: tuple[float, float], mpp: float, patch_px: int
) -> ReadPlan:
    """The plan at level 0, where every corner is a whole pixel."""
    return plan if plan.level == 0 else _plan_at(0, 1.0, slide_mpp, mpp, patch_px)


def image_regions(
    width: int, height: int, *, image_mpp: float | None, mpp: float | None, patch_px: int, fit: Fit
) -> list[Region]:
    """The patches of one image of a patch set, row by row.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        image_mpp: Its microns per pixel, None if unknown.
        mpp: The wanted scale, None if any will do.
        patch_px: Side of a patch after reading.
        fit: ``crop``: as many whole patches at the wanted scale as fit, centred (at the image's own
            scale where either is unknown). ``resize``: the central square, shrunk as a whole.
            ``enlarge``: the same, and a smaller one is enlarged. ``pad``: the centre at the image's
            own pixels; where it has less than ``patch_px``, reflected over its border.

    Raises:
        SlideError: TOO_COARSE or TOO_SMALL.
    """
    if fit == "pad":
        return [_centre_to_be_padded(width, height, image_mpp, patch_px)]
    if fit != "crop":
        return [_central_square(width, height, image_mpp, patch_px, enlarge=fit == "enlarge")]
    read_px = patch_px
    if image_mpp is not None and mpp is not None:
        _check_detail(image_mpp, mpp)
        read_px = max(patch_px, round(patch_px * mpp / image_mpp))
    columns, rows = width // read_px, height // read_px
    if not columns or not rows:
        raise SlideError(
            SkipReason.TOO_SMALL,
            f"{width}x{height} px hold no patch of {read_px} px; lower patch_px, or set"
            " fit: resize, pad or enlarge",
        )
    left, top = (width - columns * read_px) // 2, (height - rows * read_px) // 2
    effective = None if image_mpp is None else image_mpp * read_px / patch_px
    return [
        Region(left + column * read_px, top + row * read_px, read_px, read_px, effective)
        for row in range(rows)
        for column in range(columns)
    ]


def same_scale(effective_mpp: float | None, mpp: float | None) -> bool:
    """Whether a patch has the wanted scale, to 1 %; False where either is unknown."""
    if effective_mpp is None or mpp is None:
        return False
    return abs(effective_mpp / mpp - 1) <= MPP_TOLERANCE + 1e-9


def _check_detail(own_mpp: float, mpp: float) -> None:
    if own_mpp > mpp * (1 + MPP_TOLERANCE):
        raise SlideError(
            SkipReason.TOO_COARSE,
            f"has {own_mpp:.4g} um/px, coarser than the wanted {mpp:.4g}; it is never enlarged",
        )


def _central_square(
    width: int, height: int, image_mpp: float | None, patch_px: int, *, enlarge: bool
) -> Region:
    side = min(width, height)
    if side < patch_px and not enlarge:
        raise SlideError(
            SkipReason.TOO_SMALL,
            f"{width}x{height} px are less than patch_px {patch_px}; lower it, or set fit: pad or"
            " fit: enlarge",
        )
    effective = None if image_mpp is None else image_mpp * side / patch_px
    return Region((width - side) // 2, (height - side) // 2, side, side, effective)


def _centre_to_be_padded(width: int, height: int, image_mpp: float | None, patch_px: int) -> Region:
    shown_width, shown_height = min(width, patch_px), min(height, patch_px)
    if 2 * min(shown_width, shown_height) < patch_px:
        raise SlideError(
            SkipReason.TOO_SMALL,
            f"{width}x{height} px are less than half of patch_px {patch_px}, so most of the patch"
            " would be padding; lower patch_px, or set fit: enlarge",
        )
    left, top = (width - shown_width) // 2, (height - shown_height) // 2
    return Region(left, top, shown_width, shown_height, image_mpp)


def _fits(step: float, tile: int) -> bool:
    """Whether a grid of ``step`` can lie on a lattice of ``tile``."""
    whole = step == round(step)
    return whole and (step % tile == 0 or tile % step == 0)


def _starts(
    low: float, length: float, side: int, step: float, lattice: float
) -> npt.NDArray[np.int64]:
    """Corners along one axis, in pixels of the level: whole sides between low and low + length.

    The first is the first whole pixel inside, or the first multiple of ``lattice`` if that is not
    zero.
    """
    first = np.ceil(low - 1e-6)
    if lattice:
        first = np.ceil(low / lattice - 1e-6) * lattice
    room = low + length - first - side
    count = int((room + 1e-6) // step) + 1 if room >= -1e-6 else 0
    return np.asarray(first + np.round(np.arange(count) * step), dtype=np.int64)
