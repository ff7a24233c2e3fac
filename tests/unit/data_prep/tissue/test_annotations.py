import numpy as np
import numpy.typing as npt
import pytest

from histodiff.data_prep.tissue.annotations import (
    LINES_PER_PATCH,
    Annotation,
    Polygon,
    patch_coverage,
    patch_labels,
    rasterize,
)


def box(left: float, top: float, right: float, bottom: float) -> npt.NDArray[np.float64]:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=float)


def annotation(label: str, *rings: npt.NDArray[np.float64]) -> Annotation:
    return Annotation(label, (Polygon(rings[0], tuple(rings[1:])),))


def star(rng: np.random.Generator, centre: tuple[float, float], num_points: int = 12) -> Polygon:
    """A polygon with a jagged outline and a hole of the same shape."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, num_points))
    radius = rng.uniform(5, 20, num_points)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None]
    return Polygon(ring + centre, (0.4 * ring[::-1] + centre,))


def is_inside(polygon: Polygon, x: float, y: float) -> bool:
    """Naive even-odd rule, one edge at a time."""
    inside = False
    for ring in (polygon.exterior, *polygon.holes):
        points = ring.tolist()
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                inside = not inside
    return inside


@pytest.mark.parametrize("seed", range(5))
def test_rasterize_equals_a_naive_test_of_every_centre(seed: int) -> None:
    rng = np.random.default_rng(seed)
    polygons = (star(rng, (20, 20)), star(rng, (28, 24)))
    found = rasterize([Annotation("a", polygons)], x=-3, y=2.5, width=36, height=30, downsample=1.7)
    naive = [
        [
            any(is_inside(part, -3 + (c + 0.5) * 1.7, 2.5 + (r + 0.5) * 1.7) for part in polygons)
            for c in range(36)
        ]
        for r in range(30)
    ]
    assert 50 < np.sum(naive) < 1000
    np.testing.assert_array_equal(found["a"], naive)


def test_rasterize_gives_every_pixel_of_a_shared_border_to_one_side() -> None:
    middle = np.array([[10.0, 0], [13.5, 7.5], [6.5, 12.5], [10.5, 20]])
    left = np.concatenate([[[0, 0]], middle, [[0, 20]]])
    right = np.concatenate([middle[::-1], [[20, 0], [20, 20]]])
    found = rasterize(
        [annotation("left", left), annotation("right", right)],
        x=0,
        y=0,
        width=20,
        height=20,
        downsample=1,
    )
    assert (found["left"] ^ found["right"]).all()


def test_rasterize_clips_what_lies_outside() -> None:
    found = rasterize(
        [annotation("a", box(-100, -100, 5, 500)), annotation("b", box(90, 90, 99, 99))],
        x=0,
        y=0,
        width=10,
        height=10,
        downsample=1,
    )
    assert found["a"][:, :5].all()
    assert not found["a"][:, 5:].any()
    assert not found["b"].any()


def test_patch_coverage_of_boxes_is_exact() -> None:
    inner = annotation("a", box(0, 0, 30, 30), box(10, 10, 20, 20))
    corners = np.array([[0, 0], [5, 0], [25, 25], [100, 100], [-16, -16]])
    found = patch_coverage([inner], corners, side_w=32, side_h=32)["a"]
    assert found == pytest.approx([800 / 1024, 650 / 1024, 25 / 1024, 0, 220 / 1024], abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_patch_coverage_equals_a_fine_raster(seed: int) -> None:
    rng = np.random.default_rng(seed)
    areas = [Annotation("a", (star(rng, (40, 40)), star(rng, (50, 44))))]
    corners = rng.integers(10, 60, (60, 2))
    found = patch_coverage(areas, corners, side_w=12, side_h=9)["a"]
    raster = rasterize(areas, x=0, y=0, width=1600, height=1600, downsample=0.05)["a"]
    naive = [raster[20 * y :, 20 * x :][: 20 * 9, : 20 * 12].mean() for x, y in corners]
    assert np.ptp(naive) > 0.3
    np.testing.assert_allclose(found, naive, atol=1 / LINES_PER_PATCH)


def test_patch_coverage_counts_overlapping_areas_once() -> None:
    twice = [annotation("a", box(0, 0, 8, 16)), annotation("a", box(4, 0, 12, 16))]
    found = patch_coverage(twice, np.array([[0, 0]]), side_w=16, side_h=16)["a"]
    assert found == pytest.approx([0.75])


def test_patch_coverage_does_not_depend_on_the_other_patches() -> None:
    rng = np.random.default_rng(3)
    areas = [Annotation("a", (star(rng, (40, 40)), star(rng, (300, 44))))]
    corners = rng.integers(0, 400, (150, 2))
    together = patch_coverage(areas, corners, side_w=20, side_h=20)["a"]
    alone = [patch_coverage(areas, one[None], side_w=20, side_h=20)["a"][0] for one in corners]
    np.testing.assert_allclose(together, alone, atol=1e-9)


def test_patch_labels_takes_the_most_covered_one() -> None:
    areas = [annotation("tumour", box(0, 0, 6, 10)), annotation("stroma", box(6, 0, 100, 10))]
    corners = np.array([[0, 0], [4, 0], [50, 0], [0, 50], [96, 0]])
    found = patch_labels(areas, corners, side_w=10, side_h=10, min_coverage=0.5)
    assert found == ["tumour", "stroma", "stroma", None, None]


def test_patch_labels_of_a_tie_is_the_first_in_the_alphabet() -> None:
    areas = [annotation("b", box(0, 0, 5, 10)), annotation("a", box(5, 0, 10, 10))]
    found = patch_labels(areas, np.array([[0, 0]]), side_w=10, side_h=10, min_coverage=0.5)
    assert found == ["a"]


def test_patch_labels_of_a_patch_covered_exactly_enough_is_the_label() -> None:
    third = [annotation("a", box(0, 0, 1000 / 3, 1000))]
    corners = np.array([[0, 0]])
    assert patch_labels(third, corners, side_w=1000, side_h=1000, min_coverage=1 / 3) == ["a"]
    assert patch_labels(third, corners, side_w=1000, side_h=1000, min_coverage=0.334) == [None]


def test_patch_labels_without_annotations_are_none() -> None:
    corners = np.zeros((3, 2), dtype=np.int64)
    assert patch_labels([], corners, side_w=8, side_h=8, min_coverage=0.5) == [None] * 3
    empty = np.zeros((0, 2), dtype=np.int64)
    areas = [annotation("a", box(0, 0, 5, 5))]
    assert patch_labels(areas, empty, side_w=8, side_h=8, min_coverage=0.5) == []
