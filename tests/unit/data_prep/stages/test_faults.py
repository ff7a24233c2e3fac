"""Damaged, missing and misnamed slides, end to end: a recorded reason, and never a false pixel.

The oracle is the undamaged slide: what is not touched by damage must equal it to the byte.
"""

import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import tifffile
from PIL import Image

from histodiff.artifacts import Artifact
from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.errors import ArtifactCorrupt, ConfigError
from histodiff.runtime import run_in_process
from histodiff.workflows.tile import TileConfig, tile
from tests.support.tiff_slides import (
    TILE_PX,
    Pixels,
    overwrite,
    pyramid,
    tiles_of,
    tissue_pixels,
    write_svs,
)

SIDE = 640
MPP = 0.25
PATCH, STRIDE = 96, 80
DAMAGED = (3, 2)
"""Column and row of the tile that is damaged."""

Write = Callable[[Path], Path]


@cache
def slide_bytes(compression: str, downsamples: tuple[float, ...]) -> bytes:
    """A whole slide of tissue; written once for all tests."""
    levels = pyramid(tissue_pixels(SIDE), downsamples)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "slide.svs"
        return write_svs(path, levels, mpp=MPP, compression=compression).read_bytes()


def written(path: Path, compression: str, downsamples: tuple[float, ...] = ()) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(slide_bytes(compression, downsamples))
    return path


def single_jpeg(path: Path) -> Path:
    return written(path, "jpeg")


def jpeg_pyramid(path: Path) -> Path:
    return written(path, "jpeg", (2, 4))


def jpeg_2000(path: Path) -> Path:
    return written(path, "aperio_jp2000_rgb")


def deflate(path: Path) -> Path:
    return written(path, "deflate")


def deflate_pyramid(path: Path) -> Path:
    return written(path, "deflate", (2, 4))


SINGLE = {"jpeg": single_jpeg, "jpeg2000": jpeg_2000, "deflate": deflate}
PYRAMIDS = {"jpeg": jpeg_pyramid, "deflate": deflate_pyramid}


def tiled(data: Path, site: Site, *, run_units: Any = None, **changes: Any) -> Artifact:
    source = {"type": "slides", **changes.pop("source", {})}
    values = {
        "name": "patches", "version": "v1", "data": str(data), "sources": [source], "mpp": MPP,
        "patch_px": PATCH, "stride_px": STRIDE, "split": {"val": 0.0, "test": 0.0, "seed": 0},
    }  # fmt: skip
    config = parse_config(TileConfig, {**values, **changes}, source="test")
    return tile(config, site, run_units=run_units)


def all_pixels(index: PatchIndex) -> tuple[Pixels, dict[int, str]]:
    reader = PatchReader(index)
    block = reader.read(range(index.patches.num_rows))
    reader.close()
    return block.pixels, dict(block.failures)


def corners(index: PatchIndex) -> list[tuple[int, int]]:
    return list(zip(index.patches["x"].to_pylist(), index.patches["y"].to_pylist(), strict=True))


def touching(index: PatchIndex) -> set[int]:
    """Numbers of the patches that share a pixel with the damaged tile."""
    left, top = (TILE_PX * each for each in DAMAGED)
    return {
        number
        for number, (x, y) in enumerate(corners(index))
        if x < left + TILE_PX and x + PATCH > left and y < top + TILE_PX and y + PATCH > top
    }


def damage(path: Path, kind: str, *, at: tuple[int, int] = DAMAGED) -> None:
    """Overwrites all bytes of one tile of level 0."""
    found = tiles_of(path, level=0)[at[1] * (SIDE // TILE_PX) + at[0]]
    noise = np.random.default_rng(1).bytes(found.size)
    overwrite(path, found.offset, bytes(found.size) if kind == "zeros" else noise)


def status_of(artifact: Artifact) -> dict[str, str]:
    slides = PatchIndex.open(artifact.path).slides
    return dict(zip(slides["slide_id"].to_pylist(), slides["status"].to_pylist(), strict=True))


def assert_one_line(details: Iterable[str]) -> None:
    for detail in details:
        assert detail
        assert "\n" not in detail


@pytest.mark.parametrize("kind", ["zeros", "noise"])
@pytest.mark.parametrize("form", list(SINGLE))
def test_a_damaged_tile_of_a_single_level_leaves_out_only_its_patches(
    form: str, kind: str, tmp_path: Path, site: Site
) -> None:
    SINGLE[form](tmp_path / "a.svs")
    whole = PatchIndex.open(tiled(tmp_path, site, version="v0").path)
    before, _ = all_pixels(whole)
    damage(tmp_path / "a.svs", kind)
    lost = touching(whole)
    assert 4 <= len(lost) < whole.patches.num_rows

    artifact = tiled(tmp_path, site)
    index = PatchIndex.open(artifact.path)
    (slide,) = index.slides.to_pylist()
    assert (slide["status"], slide["num_unreadable"]) == ("ok", len(lost))
    (issue,) = artifact.manifest.failed
    assert (issue.unit, issue.reason) == ("a", "UNREADABLE")
    assert issue.detail.startswith(f"{len(lost)} patches cannot be decoded")
    kept = [number for number in range(whole.patches.num_rows) if number not in lost]
    assert corners(index) == [corners(whole)[number] for number in kept]
    after, failures = all_pixels(index)
    assert failures == {}
    np.testing.assert_array_equal(after, before[kept])


@pytest.mark.parametrize("kind", ["zeros", "noise"])
@pytest.mark.parametrize("form", list(PYRAMIDS))
def test_damage_below_the_picture_of_a_pyramid_is_found_when_read(
    form: str, kind: str, tmp_path: Path, site: Site
) -> None:
    PYRAMIDS[form](tmp_path / "a.svs")
    whole = PatchIndex.open(tiled(tmp_path, site, version="v0").path)
    before, _ = all_pixels(whole)
    damage(tmp_path / "a.svs", kind)
    index = PatchIndex.open(tiled(tmp_path, site).path)
    assert corners(index) == corners(whole)  # the small levels are whole
    after, failures = all_pixels(index)
    assert set(failures) == touching(whole)
    assert all("UNREADABLE" in text and "a.svs" in text for text in failures.values())
    assert_one_line(failures.values())
    kept = [number for number in range(len(after)) if number not in failures]
    np.testing.assert_array_equal(after[kept], before[kept])
    assert not after[sorted(failures)].any()


@pytest.mark.parametrize("form", ["jpeg", "deflate"])
def test_damage_at_a_level_of_broken_downsample_is_found_when_read(
    form: str, tmp_path: Path, site: Site
) -> None:
    levels = pyramid(tissue_pixels(SIDE), (1.7, 3.4))
    written(tmp_path / "a.svs", form, (1.7, 3.4))
    changes = {"mpp": 0.44, "patch_px": 64, "stride_px": 64}
    whole = PatchIndex.open(tiled(tmp_path, site, version="v0", **changes).path)
    assert set(whole.patches["level"].to_pylist()) == {1}
    assert whole.slides["reader"].to_pylist() == ["openslide"]
    before, _ = all_pixels(whole)
    hit = tiles_of(tmp_path / "a.svs", level=1)[2 * -(-levels[1].shape[1] // TILE_PX) + 1]
    overwrite(tmp_path / "a.svs", hit.offset, bytes(hit.size))
    after, failures = all_pixels(PatchIndex.open(tiled(tmp_path, site, **changes).path))
    own = SIDE / levels[1].shape[1]
    left, top, side = TILE_PX * own, 2 * TILE_PX * own, TILE_PX * own
    width = whole.patches["read_width"].to_pylist()[0] * own
    near = {
        number
        for number, (x, y) in enumerate(corners(whole))
        if x < left + side + own and x + width > left - own
        and y < top + side + own and y + width > top - own
    }  # fmt: skip
    assert failures
    assert set(failures) <= near
    kept = [number for number in range(len(after)) if number not in failures]
    np.testing.assert_array_equal(after[kept], before[kept])
    assert not after[sorted(failures)].any()


@pytest.mark.parametrize("part", [0.0005, 190, 254, 0.01, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("form", ["single", "pyramid", "jpeg2000", "deflate", "png", "jpg"])
def test_a_truncated_slide_is_unreadable_and_the_others_are_tiled(
    form: str, part: float, tmp_path: Path, site: Site
) -> None:
    write: dict[str, Write] = {
        "single": single_jpeg, "pyramid": jpeg_pyramid, "jpeg2000": jpeg_2000, "deflate": deflate,
    }  # fmt: skip
    path = tmp_path / f"cut.{form if form in ('png', 'jpg') else 'svs'}"
    if form in write:
        write[form](path)
    else:
        Image.fromarray(tissue_pixels(512)).save(path)
    with path.open("r+b") as stream:
        stream.truncate(int(path.stat().st_size * part) if part < 1 else int(part))
    single_jpeg(tmp_path / "good.svs")
    artifact = tiled(tmp_path, site, source={"scale": {"*": MPP}})
    assert status_of(artifact) == {"cut": "UNREADABLE", "good": "ok"}
    (issue,) = artifact.manifest.failed
    assert issue.unit == "cut"
    assert path.name in issue.detail
    assert_one_line([issue.detail])


def test_files_that_are_no_slides_are_unreadable_with_a_line_that_helps(
    tmp_path: Path, site: Site
) -> None:
    Image.fromarray(tissue_pixels(256)).save(tmp_path / "image.png")
    (tmp_path / "image.png").rename(tmp_path / "png.svs")
    single_jpeg(tmp_path / "svs.svs").rename(tmp_path / "svs.png")
    (tmp_path / "text.tif").write_text("This is a letter, and no image.\n")
    for suffix in ("svs", "tif", "png", "jpg", "ndpi", "dcm"):
        (tmp_path / f"empty-{suffix}.{suffix}").touch()
    single_jpeg(tmp_path / "right.svs")
    artifact = tiled(tmp_path, site, source={"scale": {"*": MPP}})
    details = {issue.unit: issue.detail for issue in artifact.manifest.failed}
    found = status_of(artifact)
    assert found.pop("right") == "ok"
    assert set(found.values()) == {"UNREADABLE"}
    assert_one_line(details.values())
    assert "is a PNG by its content; rename it" in details["png"]
    assert "is a TIFF by its content; rename it" in details["svs"]
    assert "text.tif" in details["text"]
    for suffix in ("svs", "tif", "png", "jpg", "ndpi", "dcm"):
        assert "the file is empty" in details[f"empty-{suffix}"]


def test_a_png_named_jpg_is_read_as_what_it_is(tmp_path: Path, site: Site) -> None:
    pixels = tissue_pixels(512)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    index = PatchIndex.open(tiled(tmp_path, site, source={"scale": {"*": MPP}}).path)
    found, failures = all_pixels(index)
    assert failures == {}
    x, y = corners(index)[0]
    np.testing.assert_array_equal(found[0], pixels[y : y + PATCH, x : x + PATCH])


@pytest.mark.parametrize("form", ["jpeg", "jpeg2000"])
@pytest.mark.parametrize("change", ["vanishes", "is replaced", "is cut"])
def test_a_slide_that_changes_after_tiling_fails_its_rows_and_no_others(
    form: str, change: str, tmp_path: Path, site: Site
) -> None:
    for name in ("a", "b"):
        SINGLE[form](tmp_path / f"{name}.svs")
    index = PatchIndex.open(tiled(tmp_path, site).path)
    before, _ = all_pixels(index)
    path = tmp_path / "a.svs"
    if change == "vanishes":
        path.unlink()
    elif change == "is replaced":
        write_svs(path, [tissue_pixels(SIDE, seed=9)], mpp=MPP)
    else:
        with path.open("r+b") as stream:
            stream.truncate(path.stat().st_size - 1)
    after, failures = all_pixels(index)
    owner = index.patches["slide_id"].to_pylist()
    assert set(failures) == {number for number, slide in enumerate(owner) if slide == "a"}
    assert all("a.svs" in text for text in failures.values())
    kept = [number for number in range(len(after)) if number not in failures]
    np.testing.assert_array_equal(after[kept], before[kept])
    assert not after[sorted(failures)].any()


@pytest.mark.parametrize("form", ["jpeg", "jpeg2000", "deflate"])
def test_a_damaged_slide_that_vanishes_while_it_is_open_fails_row_by_row(
    form: str, tmp_path: Path, site: Site
) -> None:
    path = SINGLE[form](tmp_path / "a.svs")
    index = PatchIndex.open(tiled(tmp_path, site).path)
    hit = sorted(touching(index))
    reader = PatchReader(index)
    far = [number for number in range(index.patches.num_rows) if number not in hit]
    assert reader.read(far[:1]).failures == {}
    damage(path, "zeros")
    path.unlink()
    block = reader.read(hit + far)
    assert set(block.failures) >= set(range(len(hit)))
    for position in range(len(hit) + len(far)):  # pixels, or a failure that names the slide
        text = block.failures.get(position)
        assert block.pixels[position].any() if text is None else "a.svs" in text
    reader.close()


@pytest.mark.parametrize("broken", ["missing", "empty", "noise"])
def test_an_index_of_tiles_that_is_lost_is_a_corrupt_artifact(
    broken: str, tmp_path: Path, site: Site
) -> None:
    single_jpeg(tmp_path / "a.svs")
    artifact = tiled(tmp_path, site)
    sidecar = Path(str(artifact.path)) / "tiles/a.parquet"
    sidecar.unlink()
    if broken != "missing":
        sidecar.write_bytes(b"" if broken == "empty" else np.random.default_rng(0).bytes(500))
    with pytest.raises(ArtifactCorrupt, match=r"tiles/a\.parquet.*tile again") as caught:
        all_pixels(PatchIndex.open(artifact.path))
    assert "\n" not in str(caught.value)


def test_a_slide_that_vanishes_between_listing_and_tiling_is_unreadable(
    tmp_path: Path, site: Site
) -> None:
    for name in ("a", "b"):
        single_jpeg(tmp_path / f"{name}.svs")

    def loses_one(make_worker: Any, units: Any) -> Any:
        (tmp_path / "a.svs").unlink()
        yield from run_in_process(make_worker, units)

    artifact = tiled(tmp_path, site, run_units=loses_one)
    assert status_of(artifact) == {"a": "UNREADABLE", "b": "ok"}
    assert "a.svs" in artifact.manifest.failed[0].detail


def test_a_slide_of_which_no_tile_can_be_decoded_is_unreadable(tmp_path: Path, site: Site) -> None:
    path = single_jpeg(tmp_path / "a.svs")
    for found in tiles_of(path, level=0):
        overwrite(path, found.offset, bytes(found.size))
    single_jpeg(tmp_path / "b.svs")
    artifact = tiled(tmp_path, site)
    assert status_of(artifact) == {"a": "UNREADABLE", "b": "ok"}
    assert not artifact.manifest.skipped
    assert [issue.unit for issue in artifact.manifest.failed] == ["a"]


def wide_slide(path: Path, *, width: int, height: int, tile_px: int) -> Path:
    """A slide of one level whose tiles are all the same few bytes of a small file."""
    write_svs(path, [tissue_pixels(2 * tile_px)], mpp=MPP, tile_px=tile_px)
    found = tiles_of(path, level=0)
    across, down = -(-width // tile_px), -(-height // tile_px)
    order = [found[(row % 2) * 2 + column % 2] for row in range(down) for column in range(across)]
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tags = tiff.pages.first.tags
        tags["ImageWidth"].overwrite(width)
        tags["ImageLength"].overwrite(height)
        tags["TileOffsets"].overwrite([each.offset for each in order])
        tags["TileByteCounts"].overwrite([each.size for each in order])
    return path


def test_a_slide_of_100_000_pixels_is_tiled_in_bounded_memory(tmp_path: Path, site: Site) -> None:
    path = wide_slide(tmp_path / "a.svs", width=100_000, height=2500, tile_px=512)
    assert path.stat().st_size < 2_000_000
    tracemalloc.start()
    artifact = tiled(tmp_path, site, patch_px=256, stride_px=256)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 250 * 2**20  # level 0 whole is 750 MB
    index = PatchIndex.open(artifact.path)
    assert index.patches.num_rows == (100_000 // 256) * (2500 // 256)
    reader = PatchReader(index)
    block = reader.read([0, index.patches.num_rows - 1])
    reader.close()
    assert block.failures == {}
    x, y = corners(index)[-1]
    expected = np.tile(tissue_pixels(1024), (2, 2, 1))[y % 1024 :, x % 1024 :][:256, :256]
    assert np.abs(block.pixels[1].astype(np.int64) - expected).mean() < 12  # JPEG


def test_a_stride_that_gives_absurdly_many_patches_is_refused_in_one_line(
    tmp_path: Path, site: Site
) -> None:
    wide_slide(tmp_path / "a.svs", width=100_000, height=2500, tile_px=512)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"a: stride_px 1 .*patches.*raise stride_px") as caught:
        tiled(tmp_path, site, stride_px=1)
    assert time.monotonic() - started < 20
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stride_px", [1, 96, 97, 1000])
def test_strides_below_and_beyond_the_patch_give_the_patches_of_the_formula(
    stride_px: int, tmp_path: Path, site: Site
) -> None:
    write_svs(tmp_path / "a.svs", [tissue_pixels(256)], mpp=MPP)
    index = PatchIndex.open(tiled(tmp_path, site, stride_px=stride_px, phase="origin").path)
    starts = range(0, 256 - PATCH + 1, stride_px)
    assert sorted(corners(index)) == [(x, y) for x in starts for y in starts]


def test_one_file_name_in_two_folders_is_an_error_that_names_both(
    tmp_path: Path, site: Site
) -> None:
    single_jpeg(tmp_path / "one/same.svs")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    with pytest.raises(ConfigError, match=r"'same' means both .*one/same.svs and .*two/same.svs"):
        tiled(tmp_path, site, source={"recursive": True})


NAMES = (
    "plain", "two words", "Gew\u00e4lbe \u7d44\u7e54", "50% off", "%2F", "a#b?c&d", "semi;colon'",
    'quote"d', "plus+and=", "a::b", "back\\slash", "[x]*", "~home", "-dash", "<b>",
)  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "site/A 1/", "100%/", "\u00e9t\u00e9 "])
def test_odd_names_reach_pictures_tiles_ledger_and_page(
    prefix: str, tmp_path: Path, site: Site
) -> None:
    for name in NAMES:
        write_svs(tmp_path / f"data/{name}.svs", [tissue_pixels(256)], mpp=MPP)
    artifact = tiled(tmp_path / "data", site, source={"prefix": prefix})
    assert status_of(artifact) == {prefix + name: "ok" for name in NAMES}
    index = PatchIndex.open(artifact.path)
    pixels, failures = all_pixels(index)
    assert failures == {}
    assert pixels.std(axis=(1, 2, 3)).min() > 5
    folder = Path(str(artifact.path))
    page = _Page()
    page.feed((folder / "cohort.html").read_text())
    linked = {folder / unquote(urlsplit(link).path) for link in page.links}
    assert linked == set((folder / "overlays").iterdir())
    for kind in ("overlays", "tiles"):
        assert len(list((folder / kind).iterdir())) == len(NAMES)
    again = tiled(tmp_path / "data", site, source={"prefix": prefix})
    assert again.manifest.content_sha256 == artifact.manifest.content_sha256


class _Page(HTMLParser):
    """Links of a page to pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs).get("href") or ""
        if tag == "a" and not found.startswith("#"):
            self.links.append(found)


@pytest.mark.parametrize("letter", ["a", "\u7d44"])
def test_a_name_that_no_file_system_takes_is_an_error_before_anything_is_read(
    letter: str, tmp_path: Path, site: Site
) -> None:
    name = letter * (240 // len(letter.encode()))
    write_svs(tmp_path / f"{name}.svs", [tissue_pixels(256)], mpp=MPP)
    with pytest.raises(ConfigError, match=r"slide id .* is too long") as caught:
        tiled(tmp_path, site)
    assert "\n" not in str(caught.value)
