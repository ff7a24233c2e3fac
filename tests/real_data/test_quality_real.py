"""Pen and sharpness on real pictures: what is found, what is left alone, and that blur is seen."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from histodiff.data_prep.readers.image_files import decode_image
from histodiff.data_prep.readers.resampling import resized
from histodiff.data_prep.tissue.annotations import rasterize
from histodiff.data_prep.tissue.artefacts import black_mask, pen_mask, white_mask
from histodiff.data_prep.tissue.geojson import mask_geojson, read_annotations
from histodiff.data_prep.tissue.quality import SUGGESTED_MIN_SHARPNESS, sharpness
from histodiff.data_prep.tissue.tissue_mask import TissueConfig, slide_mask
from histodiff.storage import storage_path

pytestmark = pytest.mark.real_data

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
THUMBNAILS = DATA / "slides/thumbnails"
ORGANS = {
    "lung": "pool/lung/*.jpeg",
    "oral": "pool/oral/*.jpg",
    "colon": "pool/colon/*.jpg",
    "prostate": "prostate/*/*.jpeg",
}
Pixels = npt.NDArray[np.uint8]


def picture(path: Path) -> Pixels:
    return decode_image(storage_path(path))


def shrunk_by(pixels: Pixels, factor: int) -> Pixels:
    height, width = pixels.shape[:2]
    return resized(pixels, width=width // factor, height=height // factor)


def patches(organ: str, *, factor: int) -> Pixels:
    """About 70 patches with something in them; files of an organ have one size."""
    files = sorted(DATA.glob(ORGANS[organ]))
    found = [picture(path) for path in files[:: max(1, len(files) // 70)]]
    tissue = [pixels for pixels in found if white_mask(pixels).mean() < 0.5]
    return np.stack([shrunk_by(pixels, factor)[:112, :112] for pixels in tissue])


def blurred(sharp: Pixels, sigma_px: float) -> Pixels:
    smooth = ndimage.gaussian_filter(sharp.astype(np.float32), (0, sigma_px, sigma_px, 0))
    return np.rint(smooth).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "pen", "black"),
    [
        ("diagnostic-slide-thumb-rgb", 0.18, 0.09),
        ("tcga-green-pen", 0.13, 0.10),
        ("tcga-red-pen", 0.19, 0.0),
        ("wsi-blue-pen", 0.02, 0.0),
    ],
)
def test_pen_masks_find_most_of_the_ink(name: str, pen: float, black: float) -> None:
    pixels = picture(THUMBNAILS / f"{name}.png")
    assert pen < pen_mask(pixels).mean() < pen + 0.06
    assert black <= black_mask(pixels).mean() < black + 0.06


@pytest.mark.parametrize("path", sorted((DATA / "pool/breast_sections").glob("*.jpg")))
def test_pen_masks_leave_whole_sections_without_pen_alone(path: Path) -> None:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").reduce(8))
    assert (pen_mask(pixels) | black_mask(pixels)).mean() < 0.001


@pytest.mark.parametrize("organ", ORGANS)
@pytest.mark.parametrize("factor", [2, 4])
def test_pen_masks_leave_real_stains_alone(organ: str, factor: int) -> None:
    shares = [
        (pen_mask(pixels) | black_mask(pixels)).mean() for pixels in patches(organ, factor=factor)
    ]
    assert np.mean(shares) < 0.01


@pytest.mark.parametrize("organ", ORGANS)
@pytest.mark.parametrize("factor", [1, 2])
def test_sharpness_falls_with_blur_and_tells_it(organ: str, factor: int) -> None:
    sharp = patches(organ, factor=factor)
    scores = [sharpness(blurred(sharp, sigma)) for sigma in (0.5, 1, 2, 4)]
    scores = [sharpness(sharp), *scores]
    assert (np.diff(scores, axis=0) <= 0).all()
    for sigma_scores in scores[3:]:
        labels = np.repeat([1, 0], len(sharp))
        assert roc_auc_score(labels, np.concatenate([scores[0], sigma_scores])) > 0.99
        assert (sigma_scores < SUGGESTED_MIN_SHARPNESS).mean() > 0.95


def test_tissue_of_a_real_slide_survives_geojson(tmp_path: Path) -> None:
    slide = openslide.OpenSlide(DATA / "slides/CMU-1-Small-Region.svs")
    region = slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")
    mask = slide_mask(np.asarray(region.reduce(8)), mpp=4.0, config=TissueConfig()).tissue
    path = storage_path(tmp_path / "tissue.geojson")
    path.write_bytes(mask_geojson(mask, x=0, y=0, downsample=8.0, name="Tissue"))
    height, width = mask.shape
    found = rasterize(read_annotations(path), x=0, y=0, width=width, height=height, downsample=8.0)
    assert 0.2 < mask.mean() < 0.98
    np.testing.assert_array_equal(found["Tissue"], mask)
