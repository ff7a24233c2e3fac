"""The cohort page in a real browser: what sorting, filters and the scale lines do."""

import re

import pytest

from histodiff.workflows.tile.cohort_page import cohort_page
from histodiff.workflows.tile.cohort_rows import HEADINGS
from tests.support.browser import browser
from tests.support.cohorts import fabricated_cohort, thumbnails_of

pytestmark = pytest.mark.browser

KEYS = [column.key for heading in HEADINGS for column in heading.columns]
SHOWN_IDS = """return Array.from(document.querySelectorAll('#list tbody tr'))
    .filter(row => row.checkVisibility())
    .map(row => row.querySelector('th').firstChild.textContent)"""


@pytest.fixture(scope="module")
def rows_and_html():
    facts, rows, _ = fabricated_cohort(150, seed=1)
    return facts.slides.to_pylist(), cohort_page(facts, thumbnails_of(rows))


@pytest.fixture(scope="module")
def window():
    with browser() as opened:
        yield opened


@pytest.fixture
def page(rows_and_html, window, tmp_path):
    path = tmp_path / "cohort.html"
    path.write_text(rows_and_html[1])
    window.open(path.as_uri())
    yield window
    assert window.complaints() == []


@pytest.fixture
def slides(rows_and_html):
    return rows_and_html[0]


def natural(text):
    """Numbers in a text sort as numbers."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def click(window, query):
    window.run("document.querySelector(arguments[0]).click()", query)


@pytest.mark.parametrize("key", KEYS)
def test_sort_by_a_column_orders_all_rows_and_puts_unknown_last(page, slides, key):
    column = next(c for heading in HEADINGS for c in heading.columns if c.key == key)
    value = {slide["slide_id"]: column.value(slide) for slide in slides}
    page.run(
        "const s = document.getElementById('sort'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('change'))",
        key,
    )
    for descending in (False, True):
        found = page.run(SHOWN_IDS)
        assert sorted(found) == sorted(value)
        values = [value[slide_id] for slide_id in found]
        known = [item for item in values if item not in (None, "")]
        assert values[: len(known)] == known
        ranked = [natural(item) if isinstance(item, str) else item for item in known]
        assert ranked == sorted(ranked, reverse=descending)
        click(page, "#way")


def test_sort_by_a_heading_marks_it_and_turns_round_at_the_second_click(page, slides):
    click(page, "[data-sort=num_patches]")
    first = page.run(SHOWN_IDS)
    most = max(slide["num_patches"] for slide in slides)
    assert first[0] in {s["slide_id"] for s in slides if s["num_patches"] == most}
    marked = "return Array.from(document.querySelectorAll('th[aria-sort]')).map(c => c.ariaSort)"
    assert page.run(marked) == ["descending"]
    click(page, "[data-sort=num_patches]")
    assert page.run(marked) == ["ascending"]
    assert page.run(SHOWN_IDS) != first


@pytest.mark.parametrize("status", ["ok", "NO_TISSUE", "MISSING_MPP", "TOO_COARSE", "warned"])
def test_filter_by_outcome_shows_exactly_those_slides(page, slides, status):
    expected = {
        slide["slide_id"]
        for slide in slides
        if slide["status"] == status or (status == "warned" and slide["warning"])
    }
    assert expected, "the cohort has such slides"
    click(page, f"[data-filter={status}]")
    assert set(page.run(SHOWN_IDS)) == expected
    shown = page.run("return document.getElementById('found').textContent")
    assert shown == f"{len(expected)} of 150 slides"
    click(page, "[data-filter='']")
    assert len(page.run(SHOWN_IDS)) == 150


def test_search_finds_all_words_together_with_the_outcome(page, slides):
    page.run(
        "const s = document.getElementById('search'); s.value = 'LUND openslide';"
        "s.dispatchEvent(new Event('input'))"
    )
    lund = {s["slide_id"] for s in slides if s["site"] == "Lund" and s["reader"]}
    assert set(page.run(SHOWN_IDS)) == lund
    click(page, "[data-filter=ok]")
    used = {slide["slide_id"] for slide in slides if slide["status"] == "ok"}
    assert set(page.run(SHOWN_IDS)) == lund & used
    click(page, "[data-show=MISSING_MPP]")
    assert set(page.run(SHOWN_IDS)) == {
        slide["slide_id"] for slide in slides if slide["status"] == "MISSING_MPP"
    }


def test_scale_for_all_completes_every_line_and_nonsense_none(page, slides):
    lines = page.run("return document.getElementById('csv').value")
    fill = """const s = document.getElementById('scale'); s.value = arguments[0];
        s.dispatchEvent(new Event('input')); return document.getElementById('csv').value"""
    missing = [slide["slide_id"] for slide in slides if slide["status"] == "MISSING_MPP"]
    expected = "".join(f"{slide_id},0.25\n" for slide_id in missing)
    assert page.run(fill, "0.25") == f"slide,mpp\n{expected}"
    assert page.run(fill, "-1") == lines
    assert page.run(fill, "") == lines


def test_pictures_are_drawn_and_the_list_becomes_a_wall_of_them(page, slides):
    page.wait("document.querySelector('#list img').decode().then(arguments[arguments.length - 1])")
    assert page.run("return document.querySelector('#list img').naturalWidth") == 160
    before = page.run("return document.getElementById('list').offsetHeight")
    click(page, "#view")
    assert page.run("return document.getElementById('list').offsetHeight") < before / 2
    assert len(page.run(SHOWN_IDS)) == len(slides)
