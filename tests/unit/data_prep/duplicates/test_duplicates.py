import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from histodiff.data_prep.duplicates.descriptors import (
    DESCRIPTOR_BYTES,
    NUM_KEYPOINTS,
    describe,
    num_keypoints,
    unpacked,
)
from histodiff.data_prep.duplicates.duplicates import (
    PAIRS_SCHEMA,
    THUMBNAILS,
    DuplicateConfig,
    duplicate_groups,
    exact_duplicates,
    near_duplicate_pairs,
    slides_with_shared_tissue,
)
from histodiff.data_prep.duplicates.keypoints import (
    WORK_PX,
    density_detail,
    keypoints,
    working_picture,
)
from histodiff.data_prep.duplicates.registration import overlap, registered
from histodiff.data_prep.duplicates.report import SourcePairs, duplicate_report
from histodiff.data_prep.generated import TissueClass, render_slide
from histodiff.data_prep.generated.labelled import render_patches
from histodiff.data_prep.generated.stain import drawn_stain

Pixels = npt.NDArray[np.uint8]
CLASSES = (TissueClass.GLAND, TissueClass.LYMPHOCYTES, TissueClass.STROMA)
FIELD_PX = 256
PATCH_PX = 160


@dataclass(frozen=True)
class Augmented:
    pixels: list[Pixels]
    field_of: list[int]


@pytest.fixture(scope="module")
def fields() -> list[Pixels]:
    """Twelve fields, four of each class; those of a class share their stain and their slide."""
    found = []
    for number, name in enumerate(CLASSES):
        rng = np.random.default_rng(number)
        found += render_patches(rng, name, drawn_stain(rng), count=4, patch_px=FIELD_PX)
    return found


@pytest.fixture(scope="module")
def augmented(fields: list[Pixels]) -> Augmented:
    rng = np.random.default_rng(5)
    pixels = [augmented_patch(rng, field) for field in fields for _ in range(4)]
    return Augmented(pixels, [number for number in range(len(fields)) for _ in range(4)])


def augmented_patch(rng: np.random.Generator, field: Pixels) -> Pixels:
    """A turned, zoomed, stretched and perhaps flipped view of the middle, after JPEG."""
    angle = np.radians(rng.uniform(-25, 25)) + np.pi / 2 * rng.integers(0, 4)
    zoom, stretch = rng.uniform(0.7, 1.2), rng.uniform(0.93, 1.07)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return jpeg(view(field, turn @ np.diag([zoom * rng.choice((-1, 1)), zoom * stretch])))


def view(
    field: Pixels, matrix: npt.NDArray[np.float64], shift: tuple[float, float] = (0, 0)
) -> Pixels:
    """A patch whose place ``p`` (y, x from the middle) shows ``matrix @ p + shift`` of a field."""
    middle = (np.array(field.shape[:2]) - 1) / 2 + shift
    offset = middle - matrix @ np.full(2, (PATCH_PX - 1) / 2)
    planes = [
        ndimage.affine_transform(
            field[..., c].astype(np.float32), matrix, offset, (PATCH_PX, PATCH_PX), order=1,
            mode="reflect",
        )
        for c in range(3)
    ]  # fmt: skip
    return np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)


def jpeg(pixels: Pixels, quality: int = 75) -> Pixels:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def pairs_among(pictures: list[Pixels], **changes: object) -> pa.Table:
    descriptors = np.stack([describe(pixels) for pixels in pictures])
    config = DuplicateConfig.model_validate(changes)
    return near_duplicate_pairs(descriptors, config=config, read_pixels=pictures.__getitem__)


def ends(pairs: pa.Table) -> set[tuple[int, int]]:
    return set(zip(pairs["first"].to_pylist(), pairs["second"].to_pylist(), strict=True))


def table_of(links: list[tuple[int, int]]) -> pa.Table:
    rows = [dict.fromkeys(PAIRS_SCHEMA.names, 0) | {"first": a, "second": b} for a, b in links]
    return pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA)


def test_near_duplicate_pairs_of_augmented_fields_are_those_of_one_field(
    augmented: Augmented,
) -> None:
    field_of = augmented.field_of
    found = ends(pairs_among(augmented.pixels, neighbours=8))
    true = {
        (a, b)
        for a in range(len(field_of))
        for b in range(a + 1, len(field_of))
        if field_of[a] == field_of[b]
    }
    assert len(found & true) >= 0.9 * len(true)
    assert len(found & true) >= 0.98 * len(found)


def test_near_duplicate_pairs_do_not_depend_on_the_order_of_patches(augmented: Augmented) -> None:
    order = np.random.default_rng(0).permutation(16)
    plain = ends(pairs_among(augmented.pixels[:16]))
    moved = ends(pairs_among([augmented.pixels[number] for number in order]))
    assert {tuple(sorted((int(order[a]), int(order[b])))) for a, b in moved} == plain


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_every_orientation_of_a_patch_is_its_near_duplicate(
    fields: list[Pixels], quarter: int, flip: bool
) -> None:
    turned = np.rot90(fields[0], quarter)
    turned = np.ascontiguousarray(turned[:, ::-1] if flip else turned)
    pairs = pairs_among([fields[0], turned, fields[1]])
    assert ends(pairs) == {(0, 1)}
    assert pairs["score"][0].as_py() > 0.98
    assert pairs["overlap"][0].as_py() > 0.98


def test_neighbours_of_one_slide_are_duplicates_only_where_they_overlap() -> None:
    slide = render_slide(4, 0, size_px=1024)
    tissue = slide[300:700, 300:900]
    overlapping = [tissue[:256, :256], tissue[:256, 128:384]]
    apart = [tissue[:256, 256:512]]
    pairs = pairs_among([*overlapping, *apart], min_overlap=0.3)
    assert ends(pairs) == {(0, 1), (1, 2)}
    assert pairs["overlap"].to_pylist() == pytest.approx([0.5, 0.5], abs=0.05)
    assert ends(pairs_among([*overlapping, *apart], min_overlap=0.6)) == set()


def test_two_copies_of_a_slide_are_found_by_their_thumbnails() -> None:
    slides = [render_slide(9, number, size_px=1024) for number in range(4)]
    thumbnails = [np.asarray(Image.fromarray(slide).reduce(4)) for slide in slides]
    scanned_again = np.asarray(Image.fromarray(slides[2][40:, 60:]).reduce(5))
    scanned_again = jpeg(np.rot90(scanned_again, 2))
    strict = THUMBNAILS.model_dump()
    assert ends(pairs_among([*thumbnails, scanned_again], **strict)) == {(2, 4)}


def test_describe_gives_the_same_bytes_again_and_none_for_glass(fields: list[Pixels]) -> None:
    descriptor = describe(fields[0])
    assert descriptor.shape == (DESCRIPTOR_BYTES,)
    assert descriptor.dtype == np.uint8
    assert describe(fields[0].copy()).tobytes() == descriptor.tobytes()
    rng = np.random.default_rng(0)
    glass = jpeg((240 + rng.normal(0, 1, (128, 128, 3))).astype(np.uint8))
    counts = num_keypoints(np.stack([descriptor, describe(glass)]))
    assert counts[0] > 60
    assert counts[1] == 0


def test_pictures_without_blobs_are_nobodys_duplicates(fields: list[Pixels]) -> None:
    glass = np.full((64, 64, 3), 240, dtype=np.uint8)
    assert ends(pairs_among([glass, glass, *fields])) == set()
    assert ends(pairs_among([glass, glass, *fields], neighbours=2)) == set()
    assert ends(pairs_among([glass] * 30, neighbours=2)) == set()


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 4)])
def test_describe_refuses_what_is_not_rgb(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not uint8"):
        describe(np.zeros(shape, dtype=np.uint8))


def test_unpacked_descriptor_is_what_was_found(fields: list[Pixels]) -> None:
    found = keypoints(working_picture(fields[3]), limit=NUM_KEYPOINTS)
    kept = unpacked(describe(fields[3]))
    assert np.abs(kept.position - found.position).max() < 1 / 128
    assert np.abs(np.log2(kept.size_px / found.size_px)).max() < 1 / 32
    assert (kept.bright == found.bright).all()
    assert (kept.features * found.features).sum(axis=1).min() > 0.98


def test_features_of_a_turned_and_flipped_picture_are_unchanged(fields: list[Pixels]) -> None:
    picture = working_picture(fields[0])
    found = keypoints(picture, limit=48)
    turned = keypoints(np.ascontiguousarray(np.rot90(picture)[:, ::-1]), limit=96)
    # rot90 takes (x, y) to (y, side - 1 - x), the flip that to (side - 1 - y, side - 1 - x)
    side = WORK_PX - 1
    expected = (side - found.position.imag) + 1j * (side - found.position.real)
    distance = np.abs(expected[:, None] - turned.position)
    partner = distance.argmin(axis=1)
    here = distance.min(axis=1) < 0.1  # half of the coarser places are on another grid
    assert here.mean() > 0.7
    alike = (found.features * turned.features[partner]).sum(axis=1)[here]
    assert np.quantile(alike, 0.05) > 0.99


@pytest.mark.parametrize(
    "matrix",
    [
        ((0.9, 0.3), (-0.3, 0.9)),
        ((-0.8, 0.0), (0.0, 0.8)),
        ((0.1, 1.1), (0.8, -0.2)),
    ],
)
def test_registration_finds_the_map_between_two_views(
    fields: list[Pixels], matrix: tuple[tuple[float, float], ...]
) -> None:
    first, second = view(fields[1], np.eye(2)), view(fields[1], np.array(matrix), (9, -6))
    by = registered(unpacked(describe(first)), unpacked(describe(second)))
    assert by is not None
    y, x = np.mgrid[-30:31:10, -30:31:10]
    scale = WORK_PX / PATCH_PX
    there = np.linalg.solve(
        np.array(matrix), np.stack([y.ravel() / scale - 9, x.ravel() / scale + 6])
    )
    middle = WORK_PX / 2
    found = by((x + middle + 1j * (y + middle)).ravel())
    expected = there[1] * scale + middle + 1j * (there[0] * scale + middle)
    assert np.abs(found - expected).max() < 2
    assert by.zoom == pytest.approx(abs(np.linalg.det(matrix)) ** -0.5, rel=0.03)
    shared = overlap(
        density_detail(working_picture(first)), density_detail(working_picture(second)), by
    )
    assert shared.correlation > 0.9


def naive_groups(num: int, links: list[tuple[int, int]]) -> list[int]:
    group = list(range(num))
    for a, b in links * num:
        group = [min(group[a], group[b]) if g in (group[a], group[b]) else g for g in group]
    names = sorted(set(group))
    return [names.index(g) for g in group]


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=8))
def test_duplicate_groups_are_what_chains_of_pairs_connect(links: list[tuple[int, int]]) -> None:
    near = table_of([(min(link), max(link)) for link in links])
    assert duplicate_groups(8, near).tolist() == naive_groups(8, links)
    assert duplicate_groups(8, table_of([]), exact=links).tolist() == naive_groups(8, links)


def test_exact_duplicates_are_items_with_one_hash() -> None:
    assert exact_duplicates(["a", "b", "a", "c", "b", "a"]) == ((0, 2, 5), (1, 4))
    assert exact_duplicates(["a", "b"]) == ()


def test_slides_with_shared_tissue_are_joined_over_other_slides() -> None:
    slide_ids = ["s1", "s1", "s2", "s2", "s3", "s4"]
    groups = [0, 1, 0, 2, 2, 3]
    assert slides_with_shared_tissue(slide_ids, groups) == {"s1": "s1", "s2": "s1", "s3": "s1"}


def test_report_counts_pairs_within_and_across_sets(fields: list[Pixels]) -> None:
    pictures = [fields[0], np.ascontiguousarray(fields[0][::-1]), fields[1], fields[1]]
    pictures += [np.full((32, 32, 3), 240, np.uint8)]
    report = duplicate_report(
        table_of([(0, 1), (0, 2)]),
        descriptors=np.stack([describe(pixels) for pixels in pictures]),
        exact=exact_duplicates(["h0", "h1", "h2", "h2", "h4"]),
        slide_ids=["s1", "s1", "s2", "s3", "s4"],
        sources=["lung", "lung", "oral", "oral", "oral"],
    )
    assert report.sources == (SourcePairs("lung", "lung", 1), SourcePairs("lung", "oral", 1))
    assert report.num_without_blobs == 1
    assert report.num_exact_copies == 1
    assert (report.num_groups, report.num_in_groups, report.largest_group) == (1, 4, 4)
    assert (report.num_pairs_across_slides, report.num_slides_sharing_tissue) == (1, 3)
    assert report.to_json()["num_near_pairs"] == 2
