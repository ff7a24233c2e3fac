"""Near duplicates among real patches whose augmentation is known, and the cost of overlooking them.

The least score was chosen on the first half of the lung fields. The least overlap was not: fields
of this set overlap each other, and it was set so that patches cut at half steps are taken in.
"""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image

from histodiff.data_prep.duplicates.descriptors import describe
from histodiff.data_prep.duplicates.duplicates import (
    DuplicateConfig,
    duplicate_groups,
    exact_duplicates,
    near_duplicate_pairs,
)

pytestmark = pytest.mark.real_data

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FIRST_HALF = 124
"""Fields of each class below this number were used to choose the least score."""


@dataclass(frozen=True)
class Scores:
    recall: float
    precision: float


@pytest.fixture(scope="module", autouse=True)
def _data_is_there() -> None:
    assert (DATA / "README.md").is_file(), f"real data is missing: {DATA}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_near_duplicates_of_lung_are_the_fields_they_were_made_from() -> None:
    rows = rows_of("pool/lung/patches.csv")
    field_of = np.array([row["field_id"] for row in rows])
    late = np.array([int(field.split("/")[1]) >= FIRST_HALF for field in field_of])
    pairs = pairs_among([DATA / "pool/lung" / row["path"] for row in rows])
    links = np.array([pairs["first"].to_pylist(), pairs["second"].to_pylist()]).T
    group_of = duplicate_groups(len(rows), pairs)
    joined = pairs_with_equal(group_of)
    for name, part in [("all", np.ones_like(late)), ("first half", ~late), ("second half", late)]:
        pairwise, grouped = scores(links, field_of, part), scores(joined, field_of, part)
        print(f"lung, {name}: pairs {pairwise}, groups {grouped}")
        assert pairwise.recall >= 0.9
        assert pairwise.precision >= 0.95
        assert grouped.recall >= pairwise.recall
    print(f"lung: {len(set(group_of.tolist()))} groups of {len(set(field_of))} fields")


@pytest.mark.slow
def test_prostate_patches_share_tissue_only_with_neighbours_on_their_slide() -> None:
    rows = rows_of("prostate/patches.csv")[:700]
    paths = [DATA / "prostate" / row["path"] for row in rows]
    pairs = pairs_among(paths)
    slides = np.array([row["slide_id"] for row in rows])
    first, second = np.array(pairs["first"]), np.array(pairs["second"])
    within = slides[first] == slides[second]
    print(
        f"prostate: {len(first)} pairs among {len(rows)} patches, {(~within).sum()} across slides"
    )
    assert len(first) > 0
    assert within.mean() > 0.99
    assert exact_duplicates([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]) == ()


def rows_of(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((DATA / name).read_text().splitlines()))


def read(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def pairs_among(paths: list[Path]) -> pa.Table:
    descriptors = np.stack([describe(read(path)) for path in paths])
    return near_duplicate_pairs(
        descriptors, config=DuplicateConfig(), read_pixels=lambda number: read(paths[number])
    )


def pairs_with_equal(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    found = []
    for group in np.flatnonzero(np.bincount(groups) > 1):
        members = np.flatnonzero(groups == group)
        found.append(members[np.argwhere(np.triu(np.ones((len(members),) * 2), 1))])
    return np.concatenate(found)


def scores(
    links: npt.NDArray[np.int64], field_of: npt.NDArray[np.str_], part: npt.NDArray[np.bool_]
) -> Scores:
    """Over pairs inside ``part``; a field is in one part entirely."""
    links = links[part[links].all(axis=1)]
    true = field_of[links[:, 0]] == field_of[links[:, 1]]
    sizes = np.unique(field_of[part], return_counts=True)[1]
    return Scores(
        recall=float(true.sum() / (sizes * (sizes - 1) // 2).sum()),
        precision=float(true.mean()),
    )
