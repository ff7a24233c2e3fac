import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from PIL import Image

from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.errors import ArtifactCorrupt, ConfigError
from histodiff.workflows.tile import TileConfig, estimate, tile
from tests.unit.data_prep.conftest import WriteImage

SPLIT = {"val": 0.0, "test": 0.0, "seed": 0}


def config(data: Path, *sources: dict[str, Any], **changes: Any) -> TileConfig:
    values = {
        "name": "patches", "version": "v1", "data": str(data), "sources": list(sources),
        "mpp": 1.0, "patch_px": 64, "split": SPLIT,
    }  # fmt: skip
    return parse_config(TileConfig, {**values, **changes}, source="test")


def images(**changes: Any) -> dict[str, Any]:
    return {"type": "image_folder", "mpp": 1.0, "fit": "crop", **changes}


def listed(**changes: Any) -> dict[str, Any]:
    columns = {"path": "path", "label": "label", "slide_id": "slide_id"}
    return {"type": "csv", "columns": columns, "mpp": 1.0, "fit": "crop", **changes}


SLIDES = {"type": "slides", "pattern": "*.svs"}


def test_tile_slides_gives_patches_of_tissue_at_the_wanted_scale(
    slides_folder: Path, site: Site
) -> None:
    artifact = tile(config(slides_folder, SLIDES), site)
    index = PatchIndex.open(artifact.path)
    assert index.slides["status"].to_pylist() == ["ok", "ok"]
    assert index.mpp == 1.0
    assert index.patches.num_rows == artifact.manifest.contents["patches"] > 8
    assert set(index.patches["read_width"].to_pylist()) == {64}
    assert set(index.patches["read_height"].to_pylist()) == {64}
    assert set(index.patches["level"].to_pylist()) == {1}
    assert min(index.patches["tissue_fraction"].to_pylist()) >= 0.5
    order = list(
        zip(*(index.patches[key].to_pylist() for key in ("slide_id", "y", "x")), strict=True)
    )
    assert order == sorted(order)
    for name in ("generated-000", "generated-001"):
        with Image.open(Path(str(artifact.path)) / "overlays" / f"{name}.png") as overlay:
            assert overlay.size == (512, 512)


def test_tile_then_read_gives_the_pixels_of_openslide(slides_folder: Path, site: Site) -> None:
    artifact = tile(config(slides_folder, SLIDES, mpp=1.5, patch_px=32), site)
    index = PatchIndex.open(artifact.path)
    numbers = [index.patches.num_rows - 1, 0, 3]
    block = PatchReader(index).read(numbers)
    assert block.failures == {}
    for position, number in enumerate(numbers):
        row = index.patches.slice(number, 1).to_pylist()[0]
        assert (row["level"], row["read_width"], row["read_height"]) == (1, 48, 48)
        with openslide.OpenSlide(str(slides_folder / f"{row['slide_id']}.svs")) as slide:
            region = slide.read_region((row["x"], row["y"]), 1, (48, 48)).convert("RGB")
        whole = np.asarray(region, dtype=np.float64)
        # 48 px are 96 halves, and 3 halves make one of 32 px
        average = np.kron(np.eye(32), np.ones(3) / 3) @ np.kron(np.eye(48), np.ones((2, 1)))
        rows = np.einsum("ir,rcx->icx", average, whole)
        expected = np.einsum("jc,icx->ijx", average, rows)
        np.testing.assert_allclose(block.pixels[position], expected, atol=0.51)


def test_tile_content_does_not_depend_on_where_slides_and_root_are(
    slides_folder: Path, tmp_path: Path, site: Site
) -> None:
    shutil.copytree(slides_folder, tmp_path / "moved")
    first = tile(config(slides_folder, SLIDES), site)
    elsewhere = site.model_copy(update={"root": str(tmp_path / "other")})
    second = tile(config(tmp_path / "moved", SLIDES), elsewhere)
    assert first.manifest.content_sha256 == second.manifest.content_sha256
    assert first.manifest.fingerprint == second.manifest.fingerprint


def test_tile_after_an_interruption_gives_the_same_index(
    slides_folder: Path, tmp_path: Path, site: Site
) -> None:
    whole = tile(config(slides_folder, SLIDES), site)
    elsewhere = site.model_copy(update={"root": str(tmp_path / "other")})

    def stops_after_one(make_worker: Any, units: Any) -> Any:
        for unit in units[:1]:
            make_worker().run(unit)
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        tile(config(slides_folder, SLIDES), elsewhere, run_units=stops_after_one)
    done = sorted((tmp_path / "other/patches/patches/v1/ledger").glob("*.json"))
    before = [path.stat().st_mtime_ns for path in done]
    resumed = tile(config(slides_folder, SLIDES), elsewhere)
    assert len(done) == 1
    assert [path.stat().st_mtime_ns for path in done] == before
    assert resumed.manifest.content_sha256 == whole.manifest.content_sha256


def test_tile_slide_without_scale_is_skipped_until_a_csv_gives_it(
    tmp_path: Path, slides_folder: Path, site: Site
) -> None:
    with openslide.OpenSlide(str(slides_folder / "generated-001.svs")) as slide:
        slide.read_region((0, 0), 0, (1024, 1024)).convert("RGB").save(tmp_path / "plain.png")
    source = {"type": "slides", "pattern": "*.png"}
    with pytest.raises(ConfigError, match=r"1 are MISSING_MPP.*'plain,<microns per pixel>'"):
        tile(config(tmp_path, source), site)
    (tmp_path / "scale.csv").write_text("slide,mpp\nplain,0.5\n")
    given = {**source, "scale_csv": "scale.csv"}
    index = PatchIndex.open(tile(config(tmp_path, given), site).path)
    assert index.patches.num_rows > 4
    assert index.slides["mpp_source"].to_pylist() == ["scale_csv"]
    assert PatchReader(index).read([0]).failures == {}


def test_tile_unusable_slides_are_reasons_and_only_unreadable_ones_fail(
    tmp_path: Path, slides_folder: Path, site: Site
) -> None:
    shutil.copy(slides_folder / "generated-000.svs", tmp_path)
    Image.new("RGB", (600, 600), (243, 241, 243)).save(tmp_path / "blank.png")
    (tmp_path / "broken.svs").write_bytes(b"II*\0 this is no slide")
    Image.new("RGB", (600, 600), (200, 120, 160)).save(tmp_path / "coarse.png")
    scale = {"blank": 0.5, "coarse": 4.0}
    artifact = tile(config(tmp_path, {"type": "slides", "scale": scale}), site)
    assert {issue.unit: issue.reason for issue in artifact.manifest.skipped} == {
        "blank": "NO_TISSUE",
        "coarse": "TOO_COARSE",
    }
    assert [(issue.unit, issue.reason) for issue in artifact.manifest.failed] == [
        ("broken", "UNREADABLE")
    ]
    assert (Path(str(artifact.path)) / "overlays" / "blank.png").is_file()
    found = PatchIndex.open(artifact.path).patches["slide_id"].to_pylist()
    assert set(found) == {"generated-000"}


def test_tile_csv_set_keeps_labels_slides_and_splits(
    tmp_path: Path, write_image: WriteImage, site: Site
) -> None:
    lines = ["path,label,slide_id"]
    for number in range(24):
        write_image(tmp_path / f"images/{number}.png", 130)
        lines.append(f"images/{number}.png,{number % 3},slide-{number // 2}")
    (tmp_path / "patches.csv").write_text("\n".join(lines) + "\n")
    label_map = {"0": "benign", "1": "cancer", "2": None}
    split = {"val": 0.25, "test": 0.25, "seed": 0, "group_by": "slide"}
    artifact = tile(
        config(tmp_path / "patches.csv", listed(label_map=label_map), split=split), site
    )
    index = PatchIndex.open(artifact.path)
    assert index.classes == ("benign", "cancer")
    assert index.patches.num_rows == 16 * 4  # 130 px hold 2 x 2 patches
    assert artifact.manifest.contents["patches_by_class"] == {"benign": 32, "cancer": 32}
    split_of: dict[str, set[str]] = {}
    for row in index.patches.to_pylist():
        split_of.setdefault(row["slide_id"], set()).add(row["split"])
    assert all(len(found) == 1 for found in split_of.values())
    assert set.union(*split_of.values()) == {"train", "val", "test"}


def test_tile_truncated_image_is_quarantined_and_named(
    tmp_path: Path, write_image: WriteImage, site: Site
) -> None:
    for name in ("good", "cut"):
        write_image(tmp_path / f"{name}.jpg", 96)
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    artifact = tile(config(tmp_path, images()), site)
    assert [(issue.unit, issue.reason) for issue in artifact.manifest.failed] == [
        ("cut.jpg", "UNREADABLE")
    ]
    index = PatchIndex.open(artifact.path)
    assert index.patches["path"].to_pylist() == ["good.jpg"]
    assert dict(
        zip(index.slides["slide_id"].to_pylist(), index.slides["status"].to_pylist(), strict=True)
    ) == {"good": "ok", "cut": "UNREADABLE"}


def test_tile_image_that_vanishes_after_tiling_is_a_failure_of_its_row(
    tmp_path: Path, write_image: WriteImage, site: Site
) -> None:
    for name in "ab":
        write_image(tmp_path / f"{name}.png", 64)
    index = PatchIndex.open(tile(config(tmp_path, images()), site).path)
    (tmp_path / "a.png").unlink()
    block = PatchReader(index).read([1, 0])
    assert list(block.failures) == [1]
    assert "UNREADABLE" in block.failures[1]
    assert block.pixels[0].any()
    assert not block.pixels[1].any()


def test_tile_mixes_sources_and_declares_a_mixed_scale(
    tmp_path: Path, slides_folder: Path, write_image: WriteImage, site: Site
) -> None:
    write_image(tmp_path / "set/tumour/1.png", 100)
    unknown = images(path=str(tmp_path / "set"), mpp="unknown", fit="resize", labels="folder")
    mixed = config(slides_folder, SLIDES, unknown, allow_unknown_mpp=True)
    index = PatchIndex.open(tile(mixed, site).path)
    assert index.mpp is None
    assert index.classes == ("tumour",)
    scales = index.patches["effective_mpp_x"].to_pylist()
    assert scales.count(None) == 1
    assert scales.count(1.0) == len(scales) - 1


def test_tile_resized_image_of_another_scale_needs_permission(
    tmp_path: Path, write_image: WriteImage, site: Site
) -> None:
    write_image(tmp_path / "a.png", 128)
    with pytest.raises(ConfigError, match=r"1 are TOO_COARSE.*allow_unknown_mpp"):
        tile(config(tmp_path, images(fit="resize")), site)
    right = config(tmp_path, images(fit="resize"), mpp=2.0)
    assert PatchIndex.open(tile(right, site).path).mpp == 2.0


def test_tile_slide_id_of_two_things_names_both(
    tmp_path: Path, write_image: WriteImage, site: Site
) -> None:
    for folder in ("one", "two"):
        write_image(tmp_path / folder / "same.png")
    clash = config(tmp_path, images(path="one"), images(path="two"))
    with pytest.raises(ConfigError, match=r"'same'.*one.*two.*prefix"):
        tile(clash, site)
    apart = config(tmp_path, images(path="one"), images(path="two", prefix="b-"))
    index = PatchIndex.open(tile(apart, site).path)
    assert index.slides["slide_id"].to_pylist() == ["b-same", "same"]


@pytest.mark.parametrize("bad", [0, -0.5, 101])
def test_tile_config_with_impossible_mpp_says_what_is_possible(bad: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mpp: .*no possible scale; give microns per pixel"):
        config(tmp_path, images(), mpp=bad)


@pytest.mark.parametrize(
    ("source", "changes"),
    [(images(mpp="unknown"), {}), (images(), {"mpp": "unknown"}), (SLIDES, {"mpp": "unknown"})],
)
def test_tile_config_with_unknown_scale_names_the_permission(
    source: dict[str, Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="allow_unknown_mpp"):
        config(tmp_path, source, **changes)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"type": "slides", "path": "nowhere"}, "does not exist; set `data`"),
        ({"type": "slides", "path": "empty"}, "has no slides"),
        ({"type": "slides", "pattern": "*.ndpi"}, "'\\*.ndpi'"),
        (images(path="empty"), "has no images"),
        (images(labels="folder"), "labels: none"),
        (listed(path="no.csv"), "does not exist"),
        (listed(path="missing.csv"), "lists 'gone.png'"),
        (listed(path="columns.csv"), "no column 'label'"),
        (listed(path="labels.csv", label_map={"x": "y"}), "label_map: has no 'a'"),
        (listed(path="twice.csv"), "more than once"),
        ({"type": "slides", "scale_csv": "scale.csv"}, r"line 2: mpp is '-1'"),
    ],
)
def test_tile_bad_input_is_one_line_with_the_fix(
    source: dict[str, Any], message: str, tmp_path: Path, write_image: WriteImage, site: Site
) -> None:
    (tmp_path / "empty").mkdir()
    write_image(tmp_path / "a.png")
    header = "path,label,slide_id\n"
    (tmp_path / "missing.csv").write_text(header + "gone.png,a,s\n")
    (tmp_path / "columns.csv").write_text("path,slide_id\na.png,s\n")
    (tmp_path / "labels.csv").write_text(header + "a.png,a,s\n")
    (tmp_path / "twice.csv").write_text(header + "a.png,a,s\na.png,b,s\n")
    (tmp_path / "scale.csv").write_text("slide,mpp\na,-1\n")
    with pytest.raises(ConfigError, match=message) as caught:
        tile(config(tmp_path, source), site)
    assert "\n" not in str(caught.value)


def test_estimate_counts_inputs_without_opening_them(tmp_path: Path, site: Site) -> None:
    (tmp_path / "a.svs").write_bytes(b"123")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/b.png").write_bytes(b"4567")
    found = estimate(config(tmp_path, SLIDES, images(path="set")), site)
    assert found == {"units": 2, "slides": 1, "images": 1, "input_bytes": 7}


def test_patch_index_with_a_missing_partition_is_corrupt(slides_folder: Path, site: Site) -> None:
    artifact = tile(config(slides_folder, SLIDES), site)
    (Path(str(artifact.path)) / "patches" / "part-00000.parquet").unlink()
    with pytest.raises(ArtifactCorrupt, match="a partition is missing"):
        PatchIndex.open(artifact.path)


def test_tile_ledger_and_urls_are_not_in_the_content(slides_folder: Path, site: Site) -> None:
    artifact = tile(config(slides_folder, SLIDES), site)
    assert not any(name.startswith("ledger/") for name in artifact.manifest.files)
    manifest = json.loads((artifact.path / "manifest.json").read_bytes())
    assert manifest["contents"]["patches_by_split"]["train"] == manifest["contents"]["patches"]
