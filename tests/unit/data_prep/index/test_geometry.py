from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histodiff.data_prep.index.geometry import (
    Grid,
    Region,
    image_regions,
    read_plan,
    slide_grid,
)
from histodiff.data_prep.readers.reader import SlideInfo
from histodiff.errors import SkipReason, SlideError


def info(
    width: int = 4000, height: int = 3000, downsamples: tuple[float, ...] = (1.0, 2.0, 4.0)
) -> SlideInfo:
    return SlideInfo(
        vendor="test", width=width, height=height, level_downsamples=downsamples,
        mpp_x=0.25, mpp_y=0.25, mpp_source="test", objective_power=None,
        level_tiles=((256, 256),) * len(downsamples), bounds_x=100, bounds_y=200,
        bounds_width=width - 100, bounds_height=height - 200, reader="test", reader_version="0",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mpp", "level", "read_px"), [(0.25, 0, 128), (0.5, 1, 128), (0.75, 1, 192), (2.0, 2, 256)]
)
def test_read_plan_takes_the_coarsest_level_that_is_fine_enough(
    mpp: float, level: int, read_px: int
) -> None:
    plan = read_plan(info(), slide_mpp=(0.25, 0.25), mpp=mpp, patch_px=128)
    assert (plan.level, plan.read_width, plan.read_height) == (level, read_px, read_px)
    assert plan.effective_mpp_x == plan.effective_mpp_y == pytest.approx(mpp)


@given(
    st.floats(0.1, 1.0), st.floats(0.5, 2.0), st.floats(1.0, 40.0), st.integers(50, 512)
)  # fmt: skip
def test_read_plan_never_enlarges_and_keeps_the_scale_of_both_axes_to_one_percent(
    own: float, anisotropy: float, ratio: float, patch_px: int
) -> None:
    mpp = max(own, own * anisotropy) * ratio
    plan = read_plan(info(), slide_mpp=(own, own * anisotropy), mpp=mpp, patch_px=patch_px)
    assert min(plan.read_width, plan.read_height) >= patch_px
    assert plan.effective_mpp_x == pytest.approx(mpp, rel=0.01)
    assert plan.effective_mpp_y == pytest.approx(mpp, rel=0.01)


def test_read_plan_takes_a_finer_level_where_the_coarsest_misses_the_scale() -> None:
    plan = read_plan(info(), slide_mpp=(0.25, 0.25), mpp=0.5 * 33.5 / 32, patch_px=32)
    assert (plan.level, plan.read_width) == (0, 67)
    with pytest.raises(SlideError, match="TOO_SMALL: patches of 32 px"):
        read_plan(info(), slide_mpp=(0.5, 0.5), mpp=0.5 * 32.49 / 32, patch_px=32)


def test_read_plan_within_one_percent_reads_pixels_as_they_are() -> None:
    assert read_plan(info(), slide_mpp=(0.502, 0.502), mpp=0.5, patch_px=128).read_width == 128
    with pytest.raises(SlideError) as caught:
        read_plan(info(), slide_mpp=(0.5, 0.51), mpp=0.5, patch_px=128)
    assert caught.value.reason is SkipReason.TOO_COARSE


def grid(
    slide: SlideInfo, *, stride_px: int = 128, phase: Literal["aligned", "origin"] = "origin"
) -> Grid:
    plan = read_plan(slide, slide_mpp=(0.25, 0.25), mpp=0.5, patch_px=128)
    return slide_grid(slide, plan, patch_px=128, stride_px=stride_px, phase=phase)


def test_slide_grid_covers_the_bounds_with_whole_patches_in_order() -> None:
    corners = grid(info()).corners
    assert corners.shape == ((3900 // 256) * (2800 // 256), 2)
    assert corners[0].tolist() == [100, 200]
    assert corners[1].tolist() == [356, 200]
    assert (corners.max(axis=0) + 256 <= [4000, 3000]).all()


def test_slide_grid_aligned_starts_on_the_lattice_of_the_tiles() -> None:
    found = grid(info(), phase="aligned")
    assert found.phase == "aligned"
    # the plan reads 128 px of level 1, half a tile there: corners at multiples of 256 in level 0
    assert found.corners[0].tolist() == [256, 256]
    assert not (found.corners % 256).any()
    assert (found.corners.max(axis=0) + 256 <= [4000, 3000]).all()


def test_slide_grid_that_fits_no_tile_keeps_the_origin() -> None:
    found = grid(info(), stride_px=100, phase="aligned")
    assert (found.phase, found.corners[0].tolist()) == ("origin", [100, 200])
    untiled = replace(info(), level_tiles=(None, None, None))
    assert grid(untiled, phase="aligned").phase == "origin"


def test_slide_grid_corners_are_whole_pixels_of_the_level_that_is_read() -> None:
    corners = grid(replace(info(), bounds_x=101, bounds_width=3899)).corners
    assert not (corners % 2).any()
    assert corners[0, 0] == 102


def test_slide_grid_with_stride_overlaps() -> None:
    corners = grid(info(), stride_px=64).corners
    assert np.unique(np.diff(np.unique(corners[:, 0]))).tolist() == [128]


def test_slide_grid_without_room_for_a_patch_is_too_small() -> None:
    with pytest.raises(SlideError, match="TOO_SMALL"):
        grid(info(300, 300))


def test_image_regions_crop_is_a_centred_grid_at_the_wanted_scale() -> None:
    regions = image_regions(520, 300, image_mpp=0.5, mpp=1.0, patch_px=64, fit="crop")
    assert [(region.x, region.y) for region in regions] == [
        (4 + 128 * column, 22 + 128 * row) for row in range(2) for column in range(4)
    ]
    assert {(region.width, region.height, region.effective_mpp) for region in regions} == {
        (128, 128, 1.0)
    }


def test_image_regions_resize_is_the_central_square_with_its_own_scale() -> None:
    (region,) = image_regions(256, 300, image_mpp=1.0, mpp=2.0, patch_px=128, fit="resize")
    assert region == Region(0, 22, 256, 256, 2.0)


@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_image_regions_smaller_than_a_patch_are_too_small(fit: str) -> None:
    with pytest.raises(SlideError, match="TOO_SMALL"):
        image_regions(100, 500, image_mpp=None, mpp=None, patch_px=128, fit=fit)


def test_image_regions_of_a_coarser_image_are_too_coarse() -> None:
    with pytest.raises(SlideError, match="TOO_COARSE"):
        image_regions(500, 500, image_mpp=1.0, mpp=0.5, patch_px=128, fit="crop")


@pytest.mark.parametrize(
    ("size", "region"),
    [
        ((27, 28), Region(0, 0, 27, 28, 0.5)),
        ((40, 20), Region(4, 0, 32, 20, 0.5)),
        ((64, 50), Region(16, 9, 32, 32, 0.5)),
    ],
)
def test_image_regions_pad_shows_the_centre_at_the_images_own_scale(
    size: tuple[int, int], region: Region
) -> None:
    assert image_regions(*size, image_mpp=0.5, mpp=0.5, patch_px=32, fit="pad") == [region]


def test_image_regions_pad_of_less_than_half_a_patch_is_too_small() -> None:
    image_regions(16, 16, image_mpp=None, mpp=None, patch_px=32, fit="pad")
    with pytest.raises(SlideError, match="TOO_SMALL: 15x40 px are less than half"):
        image_regions(15, 40, image_mpp=None, mpp=None, patch_px=32, fit="pad")


@given(st.integers(8, 300), st.integers(8, 300))
def test_image_regions_enlarge_is_resize_wherever_that_is_enough(width: int, height: int) -> None:
    (region,) = image_regions(width, height, image_mpp=0.5, mpp=None, patch_px=64, fit="enlarge")
    side = min(width, height)
    assert (region.width, region.height) == (side, side)
    assert region.effective_mpp == pytest.approx(0.5 * side / 64)
    if side >= 64:
        assert [region] == image_regions(
            width, height, image_mpp=0.5, mpp=None, patch_px=64, fit="resize"
        )
