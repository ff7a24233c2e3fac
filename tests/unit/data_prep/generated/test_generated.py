import csv
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
import pytest
from PIL import Image

from histodiff.data_prep.generated import (
    TissueClass,
    labelled,
    render_slide,
    write_generated_slides,
    write_labelled_patches,
)
from histodiff.data_prep.generated.layout import Layout
from histodiff.data_prep.generated.painting import Canvas, painted_tissue
from histodiff.data_prep.generated.stain import drawn_stain


def test_generated_slides_open_as_aperio_pyramids_with_their_scale(slides_folder: Path) -> None:
    with openslide.OpenSlide(str(slides_folder / "generated-000.svs")) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == 0.5
        assert slide.level_dimensions == ((1024, 1024), (512, 512))
        corner = np.asarray(slide.read_region((0, 0), 0, (64, 64)).convert("RGB"))
        middle = np.asarray(slide.read_region((256, 256), 1, (256, 256)).convert("RGB"))
    assert corner.min() > 200
    red, green, blue = middle.reshape(-1, 3).mean(axis=0)
    assert green < blue < red  # pink and purple


def test_generated_slides_are_a_function_of_seed_and_number() -> None:
    slide = render_slide(7, 1, size_px=512)
    np.testing.assert_array_equal(slide, render_slide(7, 1, size_px=512))
    assert (slide != render_slide(7, 2, size_px=512)).any()
    assert (slide != render_slide(8, 1, size_px=512)).any()


def test_generated_slides_written_again_are_the_same_bytes(tmp_path: Path) -> None:
    (first,) = write_generated_slides(tmp_path / "a", count=1, seed=0, size_px=512)
    (second,) = write_generated_slides(tmp_path / "b", count=1, seed=0, size_px=512)
    assert first.read_bytes() == second.read_bytes()


def test_labelled_patches_match_their_csv(tmp_path: Path) -> None:
    path = write_labelled_patches(
        tmp_path, slides_per_class=2, patches_per_slide=8, seed=1, patch_px=32
    )
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == 2 * 3 * 8
    assert set(Counter(row["slide_id"] for row in rows).values()) == {8}
    assert {row["label"] for row in rows} == {"gland", "lymphocytes", "stroma"}
    darkness: dict[str, list[float]] = {}
    for row in rows:
        with Image.open(tmp_path / row["path"]) as image:
            assert image.size == (32, 32)
            darkness.setdefault(row["label"], []).append(255 - np.asarray(image).mean())
    assert np.mean(darkness["lymphocytes"]) > np.mean(darkness["stroma"])


def test_patches_of_glands_show_a_gland_and_not_the_stroma_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    painted: list[Canvas] = []

    def paint(rng: np.random.Generator, layout: Layout) -> Canvas:
        painted.append(painted_tissue(rng, layout))
        return painted[-1]

    def show_glands(*_: object) -> npt.NDArray[np.uint8]:
        return np.repeat(painted[-1].glands[..., None], 3, axis=2).astype(np.uint8) * 255

    monkeypatch.setattr(labelled, "painted_tissue", paint)
    monkeypatch.setattr(labelled, "stained_rgb", show_glands)
    rng = np.random.default_rng(0)
    patches = labelled.render_patches(
        rng, TissueClass.GLAND, drawn_stain(rng), count=labelled.MAX_PATCHES_PER_SLIDE, patch_px=32
    )
    assert len(patches) == labelled.MAX_PATCHES_PER_SLIDE
    assert min(patch.mean() for patch in patches) > 0.35 * 255
    assert 0 < painted[0].glands.mean() < 0.8  # there is stroma, too
