import io
import weakref
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from histodiff.data_prep.index.cohort import (
    THUMBNAIL_BYTES,
    THUMBNAIL_PX,
    cohort_facts,
    overlay_thumbnail,
)
from tests.support.cohorts import SLIDES, fabricated_cohort, overlay_picture


def facts_of(rows, parts):
    slides = pa.Table.from_pylist(rows, SLIDES)
    return cohort_facts(slides, parts, name="c@v1", mpp=0.5, patch_px=128)


def sliced(table, size):
    return [table.slice(start, size) for start in range(0, table.num_rows, size)]


@pytest.fixture(scope="module")
def cohort():
    return fabricated_cohort(60, seed=4)


def test_facts_count_patches_as_a_plain_loop_does(cohort):
    facts, rows, patches = cohort
    plain = patches.to_pylist()
    assert facts.patches_by_split == Counter(row["split"] for row in plain)
    assert facts.patches_by_class == Counter(row["label"] for row in plain)
    assert list(facts.patches_by_split) == ["train", "val", "test"]
    for slide in facts.slides.to_pylist():
        own = [row for row in plain if row["slide_id"] == slide["slide_id"]]
        assert slide["split"] == (own[0]["split"] if own else "")
        mean = np.mean([row["sharpness"] for row in own]) if own else None
        assert slide["sharpness"] == (pytest.approx(mean) if own else None)
    assert facts.slide_histograms["num_patches"].total == sum(r["status"] == "ok" for r in rows)
    assert facts.patch_histograms["pen_fraction"].zeros == sum(not r["pen_fraction"] for r in plain)


def test_facts_are_the_same_however_the_patches_are_cut(cohort):
    facts, rows, patches = cohort
    cut = facts_of(rows, sliced(patches, 7))
    assert cut.patches_by_split == facts.patches_by_split
    assert cut.patches_by_class == facts.patches_by_class
    for column, histogram in facts.patch_histograms.items():
        np.testing.assert_array_equal(cut.patch_histograms[column].counts, histogram.counts)
    assert cut.slides.drop_columns("sharpness").equals(facts.slides.drop_columns("sharpness"))
    np.testing.assert_allclose(
        cut.slides["sharpness"].drop_null(), facts.slides["sharpness"].drop_null()
    )


def test_facts_of_a_slide_with_two_classes_name_the_frequent_one_first(cohort):
    _, rows, patches = cohort
    labels = ["rare", *["often"] * (patches.num_rows - 1)]
    position = patches.schema.get_field_index("label")
    patches = patches.set_column(position, "label", pa.array(labels))
    facts = facts_of(rows, sliced(patches, 3))
    assert "often, rare" in facts.slides["label"].to_pylist()


def test_facts_let_go_of_every_table_before_the_next(cohort):
    _, rows, patches = cohort
    given = []

    def parts():
        for start in range(0, patches.num_rows, 100):
            assert sum(reference() is not None for reference in given) <= 1
            part = pa.table({name: patches[name] for name in patches.column_names}).slice(
                start, 100
            )
            given.append(weakref.ref(part))
            yield part
            del part

    facts_of(rows, parts())
    assert len(given) > 5


def test_facts_without_patches_and_without_scores_are_empty(cohort):
    _, rows, patches = cohort
    none = patches.set_column(
        patches.schema.get_field_index("sharpness"), "sharpness", pa.nulls(patches.num_rows, "f8")
    )
    assert facts_of(rows, [none]).patch_histograms["sharpness"].total == 0
    assert facts_of(rows, []).patches_by_split == {}
    assert set(facts_of(rows, []).slides["split"].to_pylist()) == {""}


@pytest.mark.parametrize("kind", ["overlay", "noise", "blank", "strip", "grey"])
def test_thumbnail_is_small_and_shows_the_picture(kind):
    rng = np.random.default_rng(0)
    image = {
        "overlay": lambda: Image.open(io.BytesIO(overlay_picture(3))),
        "noise": lambda: Image.fromarray(rng.integers(0, 256, (700, 900, 3), dtype=np.uint8)),
        "blank": lambda: Image.new("RGB", (300, 200), "white"),
        "strip": lambda: Image.new("RGB", (1024, 3), (200, 100, 150)),
        "grey": lambda: Image.new("L", (400, 400), 90),
    }[kind]()
    sink = io.BytesIO()
    image.save(sink, "PNG")
    data = overlay_thumbnail(sink.getvalue())
    shown = Image.open(io.BytesIO(data))
    assert shown.format == "WEBP"
    assert max(shown.size) <= THUMBNAIL_PX
    if kind != "noise":
        assert len(data) <= THUMBNAIL_BYTES
    expected = np.asarray(image.convert("RGB").resize(shown.size, Image.Resampling.BOX), float)
    error = np.abs(np.asarray(shown.convert("RGB"), float) - expected).mean()
    assert error < (30 if kind == "noise" else 12)
