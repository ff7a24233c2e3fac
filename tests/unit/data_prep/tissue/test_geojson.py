import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from histodiff.data_prep.tissue.annotations import Annotation, rasterize
from histodiff.data_prep.tissue.geojson import mask_geojson, patches_geojson, read_annotations
from histodiff.errors import ConfigError
from histodiff.storage import storage_path

Mask = npt.NDArray[np.bool_]
SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]

DIAGONAL = np.array([[1, 0], [0, 1]], dtype=bool)
RING_OPEN_AT_A_CORNER = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=bool)
CAVITY_THAT_TOUCHES_OUTSIDE = np.array(
    [[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 1], [1, 1, 1, 1]], dtype=bool
)
CHECKERBOARD = np.indices((7, 8)).sum(axis=0) % 2 == 0
NESTED = np.zeros((11, 11), dtype=bool)
for depth in range(6):
    NESTED[depth : 11 - depth, depth : 11 - depth] = depth % 2 == 0
SHAPES = {
    "diagonal": DIAGONAL,
    "ring open at a corner": RING_OPEN_AT_A_CORNER,
    "cavity that touches the outside": CAVITY_THAT_TOUCHES_OUTSIDE,
    "checkerboard": CHECKERBOARD,
    "inverted checkerboard": ~CHECKERBOARD,
    "nested rings": NESTED,
    "full": np.ones((3, 5), dtype=bool),
    "one pixel": np.ones((1, 1), dtype=bool),
}


@st.composite
def random_masks(draw: st.DrawFn) -> Mask:
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    seed, density = draw(st.integers(0, 2**32 - 1)), draw(st.floats(0.05, 0.95))
    return np.random.default_rng(seed).uniform(size=(height, width)) < density


def written(folder: Path, document: Any) -> tuple[Annotation, ...]:
    path = folder / "annotations.geojson"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return read_annotations(storage_path(path))


def feature(geometry: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def polygon(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def doubled_area(ring: list[list[float]]) -> float:
    """Shoelace, twice the signed area."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring))


def check_round_trip(folder: Path, mask: Mask, *, x: float, y: float, downsample: float) -> None:
    data = mask_geojson(mask, x=x, y=y, downsample=downsample, name="Tissue")
    height, width = mask.shape
    found = rasterize(
        written(folder, data), x=x, y=y, width=width, height=height, downsample=downsample
    )
    np.testing.assert_array_equal(found.get("Tissue", np.zeros_like(mask)), mask)
    check_rings(json.loads(data), mask, downsample)


def check_rings(document: Any, mask: Mask, downsample: float) -> None:
    """Valid polygons: closed rings that never meet themselves, one exterior per piece."""
    _, pieces = ndimage.label(mask)
    assert len(document["features"]) == pieces
    area = 0.0
    for found in document["features"]:
        exterior, *holes = found["geometry"]["coordinates"]
        assert doubled_area(exterior) > 0
        assert all(doubled_area(hole) < 0 for hole in holes)
        for ring in (exterior, *holes):
            assert ring[0] == ring[-1]
            assert len({tuple(point) for point in ring}) == len(ring) - 1 >= 4
            area += doubled_area(ring) / 2
    assert area == pytest.approx(mask.sum() * downsample**2, rel=1e-3)


@pytest.mark.parametrize("name", SHAPES)
def test_mask_geojson_of_awkward_shapes_rasterises_to_the_same_mask(
    name: str, tmp_path: Path
) -> None:
    check_round_trip(tmp_path, SHAPES[name], x=100, y=-7, downsample=16.0)


@settings(max_examples=150, deadline=None)
@given(random_masks(), st.floats(1, 300), st.integers(-5, 100_000), st.integers(0, 100_000))
def test_mask_geojson_of_random_masks_rasterises_to_the_same_mask(
    tmp_path_factory: pytest.TempPathFactory, mask: Mask, downsample: float, x: int, y: int
) -> None:
    check_round_trip(tmp_path_factory.mktemp("masks"), mask, x=x, y=y, downsample=downsample)


def test_mask_geojson_has_what_qupath_reads() -> None:
    mask = np.ones((2, 3), dtype=bool)
    data = mask_geojson(mask, x=10, y=20, downsample=4, name="Tissue")
    (found,) = json.loads(data)["features"]
    assert found["properties"]["objectType"] == "annotation"
    assert found["properties"]["classification"]["name"] == "Tissue"
    assert all(0 <= value < 256 for value in found["properties"]["classification"]["color"])
    points = {tuple(point) for point in found["geometry"]["coordinates"][0]}
    assert points == {(10, 20), (22, 20), (22, 28), (10, 28)}
    assert data == mask_geojson(mask, x=10, y=20, downsample=4, name="Tissue")


def test_mask_geojson_of_an_empty_mask_has_no_features() -> None:
    data = mask_geojson(np.zeros((4, 4), dtype=bool), x=0, y=0, downsample=2, name="Tissue")
    assert json.loads(data) == {"type": "FeatureCollection", "features": []}


def test_patches_geojson_has_one_tile_per_patch() -> None:
    corners = np.array([[0, 0], [512, 256]])
    data = patches_geojson(
        corners,
        side_w=512,
        side_h=256,
        names=["a", "b"],
        classes=["Tumor", None],
        measurements={"sharpness": np.array([0.5, np.nan]), "tissue": np.array([1.0, 0.25])},
    )
    first, second = json.loads(data)["features"]
    assert first["geometry"]["coordinates"] == [[[0, 0], [512, 0], [512, 256], [0, 256], [0, 0]]]
    assert first["properties"]["objectType"] == "tile"
    assert first["properties"]["name"] == "a"
    assert first["properties"]["classification"]["name"] == "Tumor"
    assert first["properties"]["measurements"] == {"sharpness": 0.5, "tissue": 1.0}
    assert "classification" not in second["properties"]
    assert second["properties"]["measurements"] == {"tissue": 0.25}


def test_patches_geojson_is_read_back_with_its_classes(tmp_path: Path) -> None:
    data = patches_geojson(np.array([[5, 6]]), side_w=8, side_h=8, classes=["Tumor"])
    (found,) = written(tmp_path, data)
    assert found.label == "Tumor"
    assert sorted(found.polygons[0].exterior.tolist()) == [[5, 6], [5, 14], [13, 6], [13, 14]]


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda item: item,
        lambda item: [item],
        lambda item: {"type": "FeatureCollection", "features": [item]},
    ],
)
def test_read_annotations_takes_every_container(wrapped: Any, tmp_path: Path) -> None:
    found = written(tmp_path, wrapped(feature(polygon(SQUARE), name="Tumor")))
    assert [annotation.label for annotation in found] == ["Tumor"]


@pytest.mark.parametrize(
    ("properties", "label"),
    [
        ({"classification": {"name": "Tumor", "color": [1, 2, 3]}, "name": "region 1"}, "Tumor"),
        ({"classification": {"names": ["Tumor", "Positive"]}}, "Tumor: Positive"),
        ({"classification": ["Tumor"]}, "Tumor"),
        ({"classification": "Tumor"}, "Tumor"),
        ({"classification": None, "name": " Stroma "}, "Stroma"),
        ({"class": "Stroma"}, "Stroma"),
        ({"label": 3}, "3"),
    ],
)
def test_read_annotations_finds_the_label(
    properties: dict[str, Any], label: str, tmp_path: Path
) -> None:
    (found,) = written(tmp_path, feature(polygon(SQUARE), **properties))
    assert found.label == label


def test_read_annotations_takes_collections_and_holes(tmp_path: Path) -> None:
    hole = [[2, 2], [2, 4], [4, 4], [4, 2], [2, 2]]
    far = [[[20, 0], [30, 0], [30, 10]]]  # neither closed nor turned the right way
    geometry = {
        "type": "GeometryCollection",
        "geometries": [polygon(SQUARE, hole), {"type": "MultiPolygon", "coordinates": [far]}],
    }
    (found,) = written(tmp_path, feature(geometry, name="Tumor"))
    assert [len(part.holes) for part in found.polygons] == [1, 0]
    assert [len(part.exterior) for part in found.polygons] == [4, 3]
    mask = rasterize([found], x=0, y=0, width=40, height=10, downsample=1)["Tumor"]
    assert mask[:10, :10].sum() == 96
    assert mask[:, 10:20].sum() == 0


def test_read_annotations_takes_children_of_qupath_objects(tmp_path: Path) -> None:
    child = feature(polygon(SQUARE), classification={"name": "Tumor"})
    parent = feature(polygon(SQUARE), classification={"name": "Tissue"}, childObjects=[child])
    assert [found.label for found in written(tmp_path, [parent])] == ["Tissue", "Tumor"]


def test_read_annotations_gives_unlabelled_features_the_wanted_label(tmp_path: Path) -> None:
    path = storage_path(tmp_path / "roi.geojson")
    path.write_text(json.dumps([feature(polygon(SQUARE))]))
    (found,) = read_annotations(path, unlabelled="roi")
    assert found.label == "roi"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([feature(polygon(SQUARE), name="a"), feature(polygon(SQUARE))], "feature 2 has no class"),
        (feature({"type": "Point", "coordinates": [1, 2]}, name="a"), "feature 1 .* Point"),
        (feature({"type": "Ellipse", "x": 1}, name="a"), "feature 1 .* Ellipse"),
        (feature(None, name="a"), "feature 1 .* None"),
        (feature({"type": "Polygon"}, name="a"), "feature 1 .* without parts"),
        (feature(polygon([[0, 0], [1, 1], [0, 0]]), name="a"), "feature 1 .* 2 points"),
        (feature(polygon([[0, 0], [1, "x"], [0, 1]]), name="a"), "feature 1 .* list of"),
        (feature(polygon([[0, 0], [1, float("nan")], [0, 1]]), name="a"), "feature 1 .* finite"),
        ([polygon(SQUARE)], "feature 1 has not the type Feature"),
        ({"type": "Topology"}, "is no FeatureCollection"),
        (b"<annotations/>", "is not JSON"),
    ],
)
def test_read_annotations_of_other_things_names_the_place(
    document: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        written(tmp_path, document)
    assert "annotations.geojson" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_read_annotations_of_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_annotations(storage_path(tmp_path / "missing.geojson"))
