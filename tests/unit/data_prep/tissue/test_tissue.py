import numpy as np
import numpy.typing as npt
import pytest

from histodiff.data_prep.tissue.tissue_mask import (
    SlideMask,
    TissueConfig,
    rectangle_fractions,
    slide_mask,
)

PINK, PURPLE, GLASS = (215, 130, 170), (120, 70, 150), (242, 240, 243)


def picture(colour: tuple[int, ...], background: tuple[int, ...] = GLASS) -> npt.NDArray[np.uint8]:
    """A textured square of a colour, 60 of 200 pixels wide, on a background."""
    rng = np.random.default_rng(0)
    pixels = np.empty((200, 200, 3), dtype=np.int64)
    pixels[:] = background
    pixels[70:130, 70:130] = colour
    pixels[70:130, 70:130] += rng.integers(-25, 25, (60, 60, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def masked(pixels: npt.NDArray[np.uint8]) -> SlideMask:
    return slide_mask(pixels, mpp=4.0, config=TissueConfig())


@pytest.mark.parametrize("colour", [PINK, PURPLE, (150, 100, 70), (140, 170, 205)])
def test_slide_mask_finds_tissue_of_usual_stains(colour: tuple[int, ...]) -> None:
    found = masked(picture(colour))
    expected = np.zeros((200, 200), dtype=bool)
    expected[70:130, 70:130] = True
    assert (found.tissue != expected).mean() < 0.02
    assert not found.artefact.any()


def test_slide_mask_of_fluorescence_is_empty() -> None:
    assert not masked(picture((30, 40, 230), background=(0, 0, 4))).tissue.any()


@pytest.mark.parametrize("pen", [(20, 80, 200), (15, 120, 70), (220, 25, 30), (12, 12, 14)])
def test_slide_mask_takes_pen_for_an_artefact(pen: tuple[int, ...]) -> None:
    pixels = picture(PINK)
    pixels[95:110, 20:180] = pen
    found = masked(pixels)
    assert found.artefact[96:109, 21:179].mean() > 0.9
    assert not (found.tissue & found.artefact).any()
    assert found.tissue[72:90, 72:128].mean() > 0.9


def test_slide_mask_drops_black_padding_and_specks_and_fills_holes() -> None:
    pixels = picture(PINK)
    pixels[:, :30] = 0
    pixels[20:24, 100:104] = PINK
    pixels[97:103, 97:103] = GLASS
    found = masked(pixels)
    assert found.artefact[:, :30].mean() > 0.9
    assert not found.tissue[:40].any()
    assert found.tissue[97:103, 97:103].all()


def test_slide_mask_full_of_tissue_is_not_cut_in_half() -> None:
    rng = np.random.default_rng(1)
    pixels = np.array(PURPLE) + rng.integers(-60, 60, (64, 64, 1))
    assert masked(np.clip(pixels, 0, 255).astype(np.uint8)).tissue.mean() > 0.98


def test_slide_mask_of_blank_glass_is_empty() -> None:
    assert not masked(np.full((64, 64, 3), 243, dtype=np.uint8)).tissue.any()


def test_rectangle_fractions_equal_a_naive_mean() -> None:
    rng = np.random.default_rng(2)
    mask = rng.uniform(size=(40, 50)) < 0.4
    corners = rng.integers(0, 35, (30, 2))
    naive = [mask[y : y + 9, x : x + 7].mean() for x, y in corners]
    found = rectangle_fractions(mask, corners, side_w=7, side_h=9)
    np.testing.assert_allclose(found, naive)
