"""Masks, annotations and coordinates that are given with slides, through ``tile``."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ArtifactDrift, ConfigError
from histodiff.workflows.tile import TileConfig, tile

NAME = "generated-000"


def indexed(folder: Path, site: Site, version: str, **changes: Any) -> PatchIndex:
    source = {"type": "slides", "pattern": f"{NAME}.svs", **changes.pop("source", {})}
    config = parse_config(
        TileConfig,
        {
            "name": "patches", "version": version, "data": str(folder), "sources": [source],
            "mpp": 1.0, "patch_px": 64, "split": {"val": 0.0, "test": 0.0, "seed": 0}, **changes,
        },
        source="test",
    )  # fmt: skip
    return PatchIndex.open(tile(config, site).path)


def corners(index: PatchIndex) -> set[tuple[int, int]]:
    columns = (index.patches[key].to_pylist() for key in ("x", "y"))
    return set(zip(*columns, strict=True))


def rectangle(left: int, top: int, right: int, bottom: int, label: str) -> dict[str, Any]:
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {
        "type": "Feature", "properties": {"classification": {"name": label}},
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }  # fmt: skip


def write_geojson(folder: Path, *features: dict[str, Any]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    document = {"type": "FeatureCollection", "features": list(features)}
    (folder / f"{NAME}.geojson").write_text(json.dumps(document))
    return str(folder)


def write_trident(folder: Path, places: list[tuple[int, int]], *, side: int) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{NAME}_patches.h5", "w") as file:
        coords = file.create_dataset("coords", data=np.array(places, dtype=np.int64))
        coords.attrs.update(
            patch_size=64, patch_size_level0=side, level0_magnification=20,
            target_magnification=10, overlap=0, level0_width=1024, level0_height=1024,
        )  # fmt: skip
    return str(folder)


def test_mask_that_was_written_and_given_back_changes_nothing(
    slides_folder: Path, site: Site
) -> None:
    first = indexed(slides_folder, site, "v1")
    assert first.folder is not None
    given = {"masks": str(first.folder / "geojson" / "masks")}
    second = indexed(slides_folder, site, "v2", source=given)
    assert second.patches.equals(first.patches)


def test_edited_mask_is_where_patches_are(slides_folder: Path, site: Site, tmp_path: Path) -> None:
    masks = write_geojson(tmp_path / "masks", rectangle(256, 128, 640, 512, "Tissue"))
    index = indexed(slides_folder, site, "v1", source={"masks": masks})
    # at least half of a patch lies in the rectangle; those with pen are left out
    assert corners(index) <= {(x, y) for x in (256, 384, 512) for y in (128, 256, 384)}
    assert index.patches.num_rows >= 4


def test_annotations_are_the_labels_of_the_patches_that_they_cover(
    slides_folder: Path, site: Site, tmp_path: Path
) -> None:
    folder = write_geojson(
        tmp_path / "annotations",
        rectangle(0, 0, 512, 1024, "stroma"), rectangle(512, 0, 700, 1024, "gland"),
    )  # fmt: skip
    index = indexed(slides_folder, site, "v1", source={"annotations": folder})
    assert index.classes == ("gland", "stroma")
    for row in index.patches.to_pylist():
        expected = {0: "stroma", 1: "stroma", 2: "stroma", 3: "stroma", 4: "gland"}
        # the patch at 640 is covered to 60 of 128 pixels, less than half
        assert row["label"] == expected.get(row["x"] // 128), row["x"]
    write_geojson(tmp_path / "annotations", rectangle(0, 0, 512, 1024, "fat"))
    with pytest.raises(ArtifactDrift):  # another annotation is another index
        indexed(slides_folder, site, "v1", source={"annotations": folder})


def test_coordinates_are_imported_and_not_moved(
    slides_folder: Path, site: Site, tmp_path: Path
) -> None:
    known = sorted(corners(indexed(slides_folder, site, "v1")))
    moved = [(x + 1, y + 3) for x, y in known[:5]]
    folder = write_trident(tmp_path / "h5", moved, side=128)
    index = indexed(slides_folder, site, "v2", source={"coordinates": folder})
    assert corners(index) <= set(moved)
    assert index.patches.num_rows >= 3
    assert set(index.patches["level"].to_pylist()) == {0}  # odd corners are no pixels of level 1


@pytest.mark.parametrize(
    ("places", "side", "message"),
    [
        ([(0, 0)], 256, "is 2 um/px at 64 px, not 1; set mpp"),
        ([(960, 0)], 128, "reaches beyond the slide's 1024x1024 px"),
    ],
)
def test_coordinates_of_other_patches_are_refused(
    places: list[tuple[int, int]],
    side: int,
    message: str,
    slides_folder: Path,
    site: Site,
    tmp_path: Path,
) -> None:
    folder = write_trident(tmp_path / "h5", places, side=side)
    with pytest.raises(ConfigError, match=f"1 are UNREADABLE, such as {NAME}: .*{message}"):
        indexed(slides_folder, site, "v1", source={"coordinates": folder})


@pytest.mark.parametrize("other", [None, "another"])
def test_coordinates_that_are_missing_name_the_slide(
    slides_folder: Path, site: Site, tmp_path: Path, other: str | None
) -> None:
    folder = tmp_path / "none"
    folder.mkdir()
    if other:
        write_trident(folder, [(0, 0)], side=128)
        (folder / f"{NAME}_patches.h5").rename(folder / f"{other}.h5")
    with pytest.raises(ConfigError, match=r"sources\.0\.coordinates: .*none") as caught:
        indexed(slides_folder, site, "v1", source={"coordinates": str(folder)})
    assert other is None or {NAME, "'another.h5'"} <= set(
        str(caught.value).replace(";", "").split()
    )


def test_patches_for_qupath_have_their_scores(slides_folder: Path, site: Site) -> None:
    index = indexed(slides_folder, site, "v1", geojson=["patches"])
    assert index.folder is not None
    file = index.folder / "geojson" / "patches" / f"{NAME}.geojson"
    features = json.loads(file.read_bytes())["features"]
    squares = {tuple(map(int, f["geometry"]["coordinates"][0][0])) for f in features}
    assert corners(index) <= squares
    assert not (index.folder / "geojson" / "masks").exists()
