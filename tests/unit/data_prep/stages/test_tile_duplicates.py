"""Duplicates through ``tile``: found in files and pictures, reported, and kept in one split."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.data_prep.generated import TissueClass, write_generated_slides
from histodiff.data_prep.generated.labelled import render_patches
from histodiff.data_prep.generated.stain import drawn_stain
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.workflows.tile import TileConfig, tile

PX = 128
IMAGES = {"type": "image_folder", "slides": "folder", "mpp": 1.0, "fit": "crop"}


def indexed(folder: Path, site: Site, *sources: dict[str, Any], **changes: Any) -> PatchIndex:
    config = parse_config(
        TileConfig,
        {
            "name": "patches", "version": "v1", "data": str(folder), "sources": list(sources),
            "mpp": 1.0, "patch_px": PX, "split": {"val": 0.25, "test": 0.25, "seed": 0}, **changes,
        },
        source="test",
    )  # fmt: skip
    return PatchIndex.open(tile(config, site).path)


def write_images(folder: Path) -> None:
    """Eight slides of two images; slide-3 has a turned copy, slide-5 the very file of another."""
    pictures = []
    for number, name in enumerate(list(TissueClass)[:4]):
        rng = np.random.default_rng(number)
        pictures += render_patches(rng, name, drawn_stain(rng), count=4, patch_px=PX)
    for number, pixels in enumerate(pictures):
        path = folder / f"slide-{number // 2}" / f"{number % 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    Image.fromarray(np.rot90(pictures[0]).copy()).save(folder / "slide-3" / "turned.png")
    shutil.copy(folder / "slide-2" / "0.png", folder / "slide-5" / "copy.png")


def found_pairs(index: PatchIndex) -> set[tuple[str, str, str]]:
    table = pq.read_table(str(index.folder / "duplicates.parquet")).to_pylist()
    return {
        (
            row["kind"],
            f"{row['first_slide']}/{Path(row['first_path']).name or '-'}",
            f"{row['second_slide']}/{Path(row['second_path']).name or '-'}",
        )
        for row in table
    }


EXACT = ("exact", "slide-2/0.png", "slide-5/copy.png")
NEAR = ("near", "slide-0/0.png", "slide-3/turned.png")


def test_equal_files_are_always_found_and_turned_ones_when_asked_for(
    tmp_path: Path, site: Site
) -> None:
    write_images(tmp_path / "images")
    index = indexed(tmp_path / "images", site, IMAGES)
    assert found_pairs(index) == {EXACT}
    groups = dict(
        zip(*(index.slides[k].to_pylist() for k in ("slide_id", "duplicate_group")), strict=True)
    )
    assert {slide for slide, group in groups.items() if group} == {"slide-2", "slide-5"}
    assert groups["slide-2"] == groups["slide-5"]

    near = indexed(tmp_path / "images", site, IMAGES, version="v2", duplicates={"patches": {}})
    # equal bytes are a near pair too; nothing else is one
    assert found_pairs(near) == {EXACT, NEAR, ("near", *EXACT[1:])}
    assert near.folder is not None
    counts = json.loads((near.folder / "duplicates.json").read_bytes())["images"]
    assert (counts["num_exact_copies"], counts["num_pairs_across_slides"]) == (1, 2)


def test_keep_together_puts_slides_that_share_pictures_into_one_split(
    tmp_path: Path, site: Site
) -> None:
    write_images(tmp_path / "images")
    apart = 0
    for seed in range(2):
        for together in (False, True):
            index = indexed(
                tmp_path / "images", site, IMAGES, version=f"v{seed}{together}",
                duplicates={"keep_together": together},
                split={"val": 0.25, "test": 0.25, "seed": seed, "stratify": False},
            )  # fmt: skip
            split = dict(
                zip(*(index.patches[k].to_pylist() for k in ("slide_id", "split")), strict=True)
            )
            if together:
                assert split["slide-2"] == split["slide-5"]
            else:
                apart += split["slide-2"] != split["slide-5"]
    assert apart  # otherwise this test could not fail


def test_copies_of_a_slide_are_found_by_pixels_and_by_picture(tmp_path: Path, site: Site) -> None:
    write_generated_slides(tmp_path, count=2, seed=3, size_px=1024)
    shutil.copy(tmp_path / "generated-000.svs", tmp_path / "scanned-again.svs")
    with (tmp_path / "scanned-again.svs").open("ab") as file:
        file.write(b"another label")  # other bytes, same pixels of level 0
    source = {"type": "slides", "pattern": "*.svs"}
    search = {"slides": {"min_score": 0.85}}
    index = indexed(tmp_path, site, source, patch_px=64, duplicates=search)
    pairs = {(kind, Path(a).parent.name, Path(b).parent.name) for kind, a, b in found_pairs(index)}
    assert pairs == {(kind, "generated-000", "scanned-again") for kind in ("exact", "near")}
    assert index.folder is not None
    assert "scanned-again" in (index.folder / "cohort.html").read_text()
