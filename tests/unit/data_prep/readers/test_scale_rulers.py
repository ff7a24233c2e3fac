"""A ruler printed into slides of known scale must have its true length in every patch.

The lines are drawn from microns, the patches are measured in pixels by the centres of the lines:
nothing of the geometry of the system is used to say what is right.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.workflows.tile import TileConfig, tile
from tests.support.tiff_slides import Pixels, pyramid, write_generic_tiff, write_svs

WANTED = 0.5
FIELD_UM = 300.0
PERIOD_UM = 10.0
_LINE_UM = 1.2
_STAIN = np.array([206.0, 140.0, 180.0])
_LINE = np.array([96.0, 56.0, 120.0])
_SLIDE_MPP = (0.2204, 0.2325, 0.265, 0.29, 0.3247, 0.3886, 0.499)
_PYRAMIDS = {"single": (), "whole": (2.0, 4.0), "broken": (1.63, 3.37)}


@dataclass(frozen=True)
class Measured:
    """What one slide gave."""

    slide: str
    reader: str
    level: int
    effective: tuple[float, float]
    um: npt.NDArray[np.float64]
    """Microns per period at the wanted scale, ``(patches, 2)`` as (x, y)."""


def darkness(count: int, mpp: float) -> npt.NDArray[np.float64]:
    """How much of each pixel along an axis the lines cover, 0 to 1, by finer sampling."""
    fine = 16
    um = (np.arange(count * fine) + 0.5) / fine * mpp
    distance = np.abs((um + PERIOD_UM / 2) % PERIOD_UM - PERIOD_UM / 2)
    return (distance < _LINE_UM / 2).reshape(count, fine).mean(axis=1)


def ruler_pixels(mpp: tuple[float, float]) -> Pixels:
    """Tissue-coloured texture with dark lines every ``PERIOD_UM`` in x and in y."""
    width, height = (4 * round(FIELD_UM / each / 4) for each in mpp)
    across, down = darkness(width, mpp[0]), darkness(height, mpp[1])
    covered = np.maximum(across[np.newaxis, :], down[:, np.newaxis])[..., np.newaxis]
    noise = np.random.default_rng(5).normal(0, 6, (height, width, 1))
    pixels = _STAIN * (1 - covered) + _LINE * covered + noise
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def period_px(patch: Pixels, axis: int) -> float:
    """Distance of neighbouring lines across ``axis``, from a straight line through their centres.

    Centres are the centroids of runs that are darker than half of the way to the darkest.
    """
    profile = patch.astype(np.float64).sum(axis=2).mean(axis=axis)
    dark = profile.max() - profile
    weight = np.clip(dark - dark.max() / 2, 0, None)
    inside = np.flatnonzero(weight)
    runs = np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1)
    whole = [run for run in runs if run[0] > 1 and run[-1] < len(profile) - 2]
    centres = [float(np.average(run, weights=weight[run])) for run in whole]
    assert len(centres) >= 4, "too few lines to measure"
    return float(np.polyfit(np.arange(len(centres)), centres, 1)[0])


def config(data: Path, source: dict[str, object], patch_px: int, version: str) -> TileConfig:
    values = {
        "name": "rulers", "version": version, "data": str(data), "mpp": WANTED,
        "patch_px": patch_px, "sources": [{"type": "slides", **source}],
        "split": {"val": 0.0, "test": 0.0, "seed": 0},
    }  # fmt: skip
    return parse_config(TileConfig, values, source="test")


def measured(
    data: Path, site: Site, *, patch_px: int, source: dict[str, object] | None = None
) -> list[Measured]:
    """Tiles all slides of a folder, reads all patches, and measures the ruler in each."""
    artifact = tile(config(data, source or {}, patch_px, f"v{patch_px}"), site)
    index = PatchIndex.open(artifact.path)
    reader = PatchReader(index)
    block = reader.read(range(index.patches.num_rows))
    reader.close()
    assert block.failures == {}
    rows = index.patches.to_pylist()
    found = []
    for slide in index.slides.to_pylist():
        assert slide["status"] == "ok", slide["reason"]
        numbers = [n for n, row in enumerate(rows) if row["slide_id"] == slide["slide_id"]]
        periods = [[period_px(block.pixels[n], axis) for axis in (0, 1)] for n in numbers]
        row = rows[numbers[0]]
        found.append(
            Measured(
                slide["slide_id"], slide["reader"], row["level"],
                (row["effective_mpp_x"], row["effective_mpp_y"]), np.array(periods) * WANTED,
            )
        )  # fmt: skip
    return found


def assert_true_length(found: Iterable[Measured]) -> None:
    """Within 1 % at the wanted scale, and within 0.3 % at the scale that the index states."""
    for each in found:
        wrong = np.abs(each.um / PERIOD_UM - 1)
        line = (
            f"{each.slide:22s} {each.reader:9s} level {each.level}"
            f"  effective {each.effective[0]:.4f} x {each.effective[1]:.4f}"
            f"  ruler {each.um[:, 0].mean():.3f} x {each.um[:, 1].mean():.3f} um"
            f"  worst of {len(wrong)} patches {wrong.max():.2%}"
        )
        print(line)
        assert wrong.max() <= 0.01, line
        stated = each.um / WANTED * np.array(each.effective)
        assert np.abs(stated / PERIOD_UM - 1).max() <= 0.003, line


@pytest.fixture(scope="module")
def square_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rulers")
    for mpp in _SLIDE_MPP:
        pixels = ruler_pixels((mpp, mpp))
        for name, downsamples in _PYRAMIDS.items():
            write_svs(folder / f"{name}-{mpp}.svs", pyramid(pixels, downsamples), mpp=mpp)
    return folder


@pytest.mark.parametrize("patch_px", [128, 256])
def test_rulers_in_slides_of_any_scale_and_pyramid_have_their_true_length(
    square_slides: Path, site: Site, patch_px: int
) -> None:
    found = measured(square_slides, site, patch_px=patch_px)
    assert len(found) == len(_SLIDE_MPP) * len(_PYRAMIDS)
    assert {each.level for each in found} == {0, 1}  # some are read from a smaller level
    assert {each.reader for each in found} == {"tiff", "openslide"}
    assert_true_length(found)


@pytest.mark.parametrize("patch_px", [128, 256])
def test_rulers_in_anisotropic_slides_have_their_true_length_in_both_axes(
    tmp_path: Path, site: Site, patch_px: int
) -> None:
    for mpp in ((0.2204, 0.265), (0.29, 0.2325), (0.25, 0.499), (0.4, 0.22)):
        pixels = ruler_pixels(mpp)
        for name, downsamples in _PYRAMIDS.items():
            path = tmp_path / f"{name}-{mpp[0]}x{mpp[1]}.tif"
            write_generic_tiff(path, pyramid(pixels, downsamples), mpp=mpp)
    assert_true_length(measured(tmp_path, site, patch_px=patch_px))


@pytest.mark.parametrize("patch_px", [128, 256])
def test_rulers_with_a_scale_from_csv_have_their_true_length_in_both_axes(
    tmp_path: Path, site: Site, patch_px: int
) -> None:
    rows = [("slide", "mpp_x", "mpp_y")]
    for mpp in ((0.2204, 0.265), (0.3886, 0.3247)):
        pixels, stem = ruler_pixels(mpp), f"csv-{mpp[0]}x{mpp[1]}"
        # the file states another scale, which the CSV overrules
        write_svs(tmp_path / f"{stem}.svs", pyramid(pixels, (2.0,)), mpp=0.31)
        rows.append((stem, str(mpp[0]), str(mpp[1])))
    with (tmp_path / "scales.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    source: dict[str, object] = {"scale_csv": "scales.csv"}
    assert_true_length(measured(tmp_path, site, patch_px=patch_px, source=source))


def test_the_scale_and_source_that_were_used_are_recorded_whoever_reads(
    tmp_path: Path, site: Site
) -> None:
    # levels at 1.63 are read by OpenSlide, which finds no scale, or another one, in the file
    for name, stated in (("none", None), ("wrong", 0.31)):
        mpp = None if stated is None else (stated, stated)
        levels = pyramid(ruler_pixels((0.25, 0.25)), (1.63,))
        write_generic_tiff(tmp_path / f"{name}.tif", levels, mpp=mpp)
    (tmp_path / "scales.csv").write_text("slide,mpp\nnone,0.25\nwrong,0.25\n")
    artifact = tile(config(tmp_path, {"scale_csv": "scales.csv"}, 128, "v1"), site)
    for row in PatchIndex.open(artifact.path).slides.to_pylist():
        assert row["reader"] == "openslide"
        assert (row["mpp_x"], row["mpp_y"], row["mpp_source"]) == (0.25, 0.25, "scale_csv")


def test_slides_coarser_than_wanted_are_too_coarse_and_never_enlarged(
    tmp_path: Path, site: Site
) -> None:
    for mpp in (0.504, 0.506, 1.0):
        write_svs(tmp_path / f"square-{mpp}.svs", [ruler_pixels((mpp, mpp))], mpp=mpp)
    one_axis = (0.25, 0.6)
    write_generic_tiff(tmp_path / "one-axis.tif", [ruler_pixels(one_axis)], mpp=one_axis)
    artifact = tile(config(tmp_path, {}, 128, "v1"), site)
    assert {issue.unit: issue.reason for issue in artifact.manifest.skipped} == {
        "one-axis": "TOO_COARSE", "square-0.506": "TOO_COARSE", "square-1.0": "TOO_COARSE",
    }  # fmt: skip
    index = PatchIndex.open(artifact.path)
    assert set(index.patches["slide_id"].to_pylist()) == {"square-0.504"}
    assert min(index.patches["read_width"].to_pylist()) >= 128
    assert min(index.patches["read_height"].to_pylist()) >= 128


@pytest.mark.parametrize(
    ("mpp", "power", "warned"),
    [(0.25, 40, False), (0.2325, 40, False), (0.2204, 40, True), (0.25, 20, True), (0.5, 40, True)],
)
def test_a_magnification_that_contradicts_the_scale_is_a_warning(
    mpp: float, power: float, warned: bool, tmp_path: Path, site: Site
) -> None:
    write_svs(tmp_path / "a.svs", [ruler_pixels((mpp, mpp))], mpp=mpp, power=power)
    index = PatchIndex.open(tile(config(tmp_path, {}, 128, "v1"), site).path)
    (row,) = index.slides.to_pylist()
    assert row["status"] == "ok"
    assert row["mpp_x"] == mpp  # the stated scale counts, the magnification never
    assert bool(row["warning"]) == warned
    if warned:
        assert f"{power:g}x" in row["warning"]
        assert f"{mpp:g}" in row["warning"]
