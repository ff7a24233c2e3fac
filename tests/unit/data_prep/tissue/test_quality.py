import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from histodiff.data_prep.generated import TissueClass
from histodiff.data_prep.generated.labelled import render_patches
from histodiff.data_prep.generated.stain import drawn_stain
from histodiff.data_prep.readers.resampling import resized
from histodiff.data_prep.readers.thumbnails import Thumbnail
from histodiff.data_prep.tissue.artefacts import black_mask, pen_mask, white_mask
from histodiff.data_prep.tissue.quality import (
    SUGGESTED_MIN_SHARPNESS,
    PatchScores,
    QualityConfig,
    broken_rules,
    patch_scores,
    sharpness,
)
from histodiff.data_prep.tissue.tissue_mask import TissueConfig, rectangle_fractions, slide_mask

Pixels = npt.NDArray[np.uint8]

PINK, PURPLE, GLASS = (215, 130, 170), (120, 70, 150), (242, 240, 243)
RED, GREEN, BLUE, BLACK = (220, 25, 30), (15, 120, 70), (20, 80, 200), (12, 12, 14)


def textured(colour: tuple[int, ...], height: int = 120, width: int = 120) -> Pixels:
    rng = np.random.default_rng(0)
    pixels = np.array(colour) + rng.integers(-12, 12, (height, width, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def blurred(patches: Pixels, sigma_px: float) -> Pixels:
    if sigma_px == 0:
        return patches
    smooth = ndimage.gaussian_filter(patches.astype(float), (0, sigma_px, sigma_px, 0))
    return np.rint(smooth).astype(np.uint8)


def compressed(patches: Pixels) -> Pixels:
    out = []
    for pixels in patches:
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, format="JPEG", quality=80)
        out.append(np.asarray(Image.open(sink)))
    return np.stack(out)


@pytest.fixture(scope="module", params=["1 um/px", "2 um/px"])
def sharp(request: pytest.FixtureRequest) -> Pixels:
    """Generated patches of all classes, 64 px wide."""
    patches: list[Pixels] = []
    for number, tissue_class in enumerate(TissueClass):
        rng = np.random.default_rng(number)
        side = 128 if request.param == "1 um/px" else 256  # drawn at 0.5 um/px
        patches += render_patches(rng, tissue_class, drawn_stain(rng), count=4, patch_px=side)
    return np.stack([resized(pixels, width=64, height=64) for pixels in patches])


def test_sharpness_falls_with_blur_in_every_patch(sharp: Pixels) -> None:
    scores = [sharpness(blurred(sharp, sigma)) for sigma in (0, 0.5, 1, 1.5, 2, 3, 4)]
    assert (np.diff(scores, axis=0)[:4] < 0).all()
    assert (np.diff(scores, axis=0) <= 0).all()


@pytest.mark.parametrize("written", [lambda patches: patches, compressed])
def test_sharpness_tells_sharp_from_blurred_by_two_pixels(
    sharp: Pixels, written: Callable[[Pixels], Pixels]
) -> None:
    assert sharpness(written(sharp)).min() > SUGGESTED_MIN_SHARPNESS
    for sigma in (2, 4, 8):
        assert sharpness(written(blurred(sharp, sigma))).max() < SUGGESTED_MIN_SHARPNESS


def test_sharpness_of_pale_tissue_is_that_of_dark_tissue(sharp: Pixels) -> None:
    pale = np.rint(255 - (255 - sharp.astype(float)) * 0.5).astype(np.uint8)
    ratio = sharpness(pale) / sharpness(sharp)
    assert ratio.min() > 0.85
    assert sharpness(pale).min() > 1.5 * sharpness(blurred(sharp, 2)).max()


def test_sharpness_does_not_depend_on_orientation_or_neighbours(sharp: Pixels) -> None:
    expected = sharpness(sharp)
    np.testing.assert_allclose(sharpness(sharp[:, ::-1].swapaxes(1, 2)), expected, rtol=1e-6)
    np.testing.assert_array_equal(sharpness(sharp[3:4]), expected[3:4])


def test_sharpness_of_extremes_is_zero_and_one() -> None:
    flat = np.full((1, 32, 32, 3), 200, dtype=np.uint8)
    chessboard = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
    board = np.repeat(chessboard[None, ..., None], 3, axis=-1)
    assert sharpness(flat).tolist() == [0.0]
    assert sharpness(board) == pytest.approx([1.0], rel=1e-3)
    assert sharpness(flat[:0]).shape == (0,)


@pytest.mark.parametrize("colour", [RED, GREEN, BLUE])
def test_pen_mask_finds_a_stroke_and_not_black(colour: tuple[int, ...]) -> None:
    pixels = textured(PINK)
    pixels[40:60] = colour
    assert pen_mask(pixels)[42:58].all()
    assert not pen_mask(pixels)[:30].any()
    assert not black_mask(pixels).any()


def test_black_mask_finds_black_ink_and_not_pen() -> None:
    pixels = textured(PINK)
    pixels[40:60] = BLACK
    assert black_mask(pixels)[42:58, 4:-4].all()
    assert not black_mask(pixels)[:30].any()
    assert not pen_mask(pixels).any()


@pytest.mark.parametrize(
    ("core", "faint"),
    [(GREEN, (150, 190, 185)), (BLUE, (95, 140, 185)), (RED, (200, 72, 80))],
)
def test_pen_mask_follows_a_stroke_where_it_is_faint(
    core: tuple[int, ...], faint: tuple[int, ...]
) -> None:
    pixels = textured(PINK)
    pixels[40:60, 60:] = faint
    assert not pen_mask(pixels).any()  # faint colour alone may be stain
    pixels[40:60, :60] = core
    assert pen_mask(pixels)[42:58].all()


@pytest.mark.parametrize(
    "stain",
    [PURPLE, (75, 55, 120), (150, 100, 70), (140, 170, 205), (95, 100, 150), PINK, GLASS],
)
def test_pen_and_black_masks_leave_stains_alone(stain: tuple[int, ...]) -> None:
    assert not pen_mask(textured(stain)).any()
    assert not black_mask(textured(stain)).any()


def test_white_mask_is_glass_and_no_tissue() -> None:
    pixels = textured(PINK)
    pixels[:50] = GLASS
    found = white_mask(pixels)
    assert found[:50].all()
    assert not found[50:].any()


def test_rectangle_fractions_equal_a_naive_mean() -> None:
    rng = np.random.default_rng(2)
    mask = rng.uniform(size=(40, 50)) < 0.4
    corners = rng.integers(0, 38, (30, 2))
    naive = [mask[y : y + 4, x : x + 9].mean() for x, y in corners]
    np.testing.assert_allclose(rectangle_fractions(mask, corners, side_w=9, side_h=4), naive)


def test_patch_scores_say_what_patches_consist_of() -> None:
    pixels = np.concatenate([textured(colour) for colour in (PURPLE, GLASS, GREEN, BLACK)], axis=1)
    readable = np.zeros(pixels.shape[:2], bool)
    picture = Thumbnail(pixels, x=1000, y=500, downsample=8.0, unreadable=readable)
    mask = slide_mask(pixels, mpp=4.0, config=TissueConfig())
    corners = np.array([1000, 500]) + 8 * np.array([[20, 30], [140, 30], [260, 30], [380, 30]])
    scores = patch_scores(picture, mask, corners, side_w=8 * 80, side_h=8 * 40)
    np.testing.assert_allclose(scores.tissue, [1, 0, 0, 0])
    np.testing.assert_allclose(scores.white, [0, 1, 0, 0])
    np.testing.assert_allclose(scores.pen, [0, 0, 1, 0])
    np.testing.assert_allclose(scores.black, [0, 0, 0, 1])
    assert broken(scores, max_white_fraction=1) == [None, None, "pen", "black"]


def broken(
    scores: PatchScores, *, sharp: Any = None, unreadable: Any = None, **limits: Any
) -> list[str | None]:
    count = len(scores.pen)
    return broken_rules(
        scores,
        np.full(count, np.nan) if sharp is None else np.array(sharp),
        np.zeros(count, bool) if unreadable is None else np.array(unreadable),
        config=QualityConfig(**limits),
    )


def test_broken_rules_keeps_each_limit_and_names_the_first_that_is_broken() -> None:
    scores = PatchScores(
        tissue=np.ones(4),
        pen=np.array([0.05, 0.06, 0, 0]),
        black=np.array([0.05, 0, 0.06, 0]),
        white=np.array([0.7, 0, 0, 0.71]),
    )
    assert broken(scores) == [None, "pen", "black", "white"]
    tolerant = {"max_pen_fraction": 1, "max_black_fraction": 1, "max_white_fraction": 1}
    assert broken(scores, **tolerant) == [None] * 4
    assert broken(scores, unreadable=[0, 1, 0, 0]) == [None, "unreadable", "black", "white"]
    focus = {"min_sharpness": 0.06, "focus_mpp": 1.0}
    assert broken(scores, sharp=[0.05, 0.05, 0.1, np.nan], **focus) == [
        "blurred", "pen", "black", "white",
    ]  # fmt: skip


def test_min_sharpness_without_a_scale_names_the_fix() -> None:
    with pytest.raises(ValueError, match="focus_mpp"):
        QualityConfig(min_sharpness=0.06)
