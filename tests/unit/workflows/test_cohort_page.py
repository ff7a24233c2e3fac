import csv
import io
import json
import math
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from histodiff.data_prep.index.cohort import DuplicateGroup, cohort_facts
from histodiff.data_prep.index.histograms import histogram_of
from histodiff.errors import SkipReason
from histodiff.workflows.tile.cohort_charts import Chart, histogram_svg
from histodiff.workflows.tile.cohort_page import cohort_page
from histodiff.workflows.tile.cohort_rows import HEADINGS, MAX_SLIDES
from tests.support.cohorts import SLIDES, STATUSES, fabricated_cohort, slide_row, thumbnails_of


class Page(HTMLParser):
    """What a browser would see: rows of the list, addresses, text, and the script's data."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.targets, self.texts, self.tags = [], [], [], Counter()
        self.data, self.area, self._open = "", "", ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags[tag] += 1
        self._open = values.get("id", tag) if tag in ("script", "textarea", "style") else ""
        self.targets += [values[name] for name in ("src", "href", "srcset") if name in values]
        if tag == "tr":
            self.rows.append("")

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, text):
        if self._open == "data":
            self.data += text
        elif self._open == "csv":
            self.area += text
        elif self._open not in ("script", "style"):
            self.texts.append(text)
            if self.rows:
                self.rows[-1] += " " + text

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def values(self):
        def refuse(name):
            raise AssertionError(f"{name} is no JSON")

        return json.loads(self.data, parse_constant=refuse)


def facts_of(rows, **changes):
    facts = cohort_facts(pa.Table.from_pylist(rows, SLIDES), [], name="c@v1", mpp=0.5, patch_px=128)
    return replace(facts, **changes)


def rows_of(*statuses):
    rng = np.random.default_rng(0)
    return [slide_row(number, rng, status=status) for number, status in enumerate(statuses)]


@pytest.fixture(scope="module")
def cohort():
    facts, rows, _ = fabricated_cohort(80, seed=2)
    return rows, Page(cohort_page(facts, thumbnails_of(rows)))


def test_page_loads_nothing_from_elsewhere(cohort):
    _, page = cohort
    own = ("data:image/webp;base64,", "overlays/", "#")
    assert [target for target in page.targets if not target.startswith(own)] == []
    assert not {"link", "iframe", "object", "video"} & set(page.tags)


def test_page_has_a_row_with_the_numbers_of_every_slide(cohort):
    rows, page = cohort
    body = page.rows[1:]
    assert len(body) == len(rows)
    row_of = {shown.split()[shown.split().index("picture") + 1] if "no picture" in shown
              else shown.split()[0]: shown for shown in body}  # fmt: skip
    assert len(row_of) == len(rows)
    for slide in rows:
        shown = row_of[slide["slide_id"]]
        assert f"{slide['num_patches']:,}" in shown
        assert slide["reason"] in shown
        assert slide["warning"] in shown
        if slide["width"]:
            assert f"{slide['width']:,} x {slide['height']:,} px" in shown
        if slide["width"] and slide["mpp_x"]:
            assert f"{slide['width'] * slide['mpp_x'] / 1000:.1f} x " in shown


def test_page_links_every_picture_to_its_overlay(cohort):
    rows, page = cohort
    pictured = {row["slide_id"] for row in rows if row["status"] in ("ok", "NO_TISSUE")}
    assert {t for t in page.targets if t.startswith("overlays/")} == {
        f"overlays/{key}.png" for key in pictured
    }


def test_page_headline_counts_slides_patches_and_tissue(cohort):
    rows, page = cohort
    used = [row for row in rows if row["status"] == "ok"]
    failed = sum(row["status"] == "UNREADABLE" for row in rows)
    assert (
        f"{len(used)} of 80 slides are used: {sum(r['num_patches'] for r in used):,}" in page.text
    )
    assert f"{sum(row['tissue_mm2'] for row in used):,.0f} mm" in page.text
    assert f"{80 - len(used) - failed} were left out and {failed} failed." in page.text


def test_page_data_has_every_column_and_filter(cohort):
    rows, page = cohort
    data = page.values()
    assert set(data["columns"]) == {c.key for heading in HEADINGS for c in heading.columns}
    assert {len(values) for values in data["columns"].values()} == {80}
    counts = Counter(row["status"] for row in rows)
    assert {key: len(places) for key, places in data["filters"].items() if key in counts} == counts


@pytest.mark.parametrize("reason", list(SkipReason))
def test_page_says_what_to_do_for_every_reason(reason):
    page = Page(cohort_page(facts_of(rows_of("ok", str(reason), str(reason))), {}))
    assert "2 slides " in page.text.partition("What to do")[2]
    assert page.text.count("Do:") == 1


def test_page_scale_csv_names_exactly_the_slides_without_scale():
    rows = rows_of(*STATUSES, "MISSING_MPP", "MISSING_MPP")
    wanted = ['a "b", c', "<i>d</i>", "TCGA-01"]
    missing = [row for row in rows if row["status"] == "MISSING_MPP"]
    for row, slide_id in zip(missing, wanted, strict=True):
        row["slide_id"] = slide_id
    page = Page(cohort_page(facts_of(rows), {}))
    table = list(csv.DictReader(io.StringIO(page.area)))
    assert [line["slide"] for line in table] == wanted
    assert {line["mpp"] for line in table} == {"<microns per pixel>"}


def test_page_with_hostile_names_shows_them_as_text():
    rows = rows_of("ok", "UNREADABLE")
    evil = "</script><img src=x onerror=alert(1)>&'\""
    rows[0] |= {"slide_id": evil, "site": evil}
    rows[1] |= {"reason": evil}
    page = Page(cohort_page(facts_of(rows), {evil: b"1"}))
    assert page.values()["columns"]["slide_id"].count(evil) == 1
    assert page.tags["img"] == 1
    assert [target for target in page.targets if target.startswith(("overlays/", "x"))] == [
        "overlays/%3C%252Fscript%3E%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%26%27%22.png"
    ]


def test_page_of_a_flawless_cohort_says_there_is_nothing_to_do():
    rows = rows_of("ok", "ok")
    for row in rows:
        row |= {"warning": "", "num_blurred": 0, "num_pen": 0}
    page = Page(cohort_page(facts_of(rows), {}))
    assert "every slide is used, and none has a warning" in page.text
    assert "Do:" not in page.text


def test_page_values_that_are_no_numbers_are_null_in_the_data():
    rows = rows_of("ok", "ok")
    rows[0]["tissue_fraction"], rows[1]["mpp_x"] = math.nan, math.inf
    values = Page(cohort_page(facts_of(rows), {})).values()["columns"]
    assert values["tissue_fraction"].count(None) == 1
    assert values["mpp_x"].count(None) == 1


def test_page_of_a_large_cohort_lists_every_problem_and_says_what_is_left_out():
    rows = rows_of(*["ok"] * (MAX_SLIDES + 40), *["TOO_SMALL"] * 25)
    page = Page(cohort_page(facts_of(rows), {}))
    assert len(page.values()["columns"]["slide_id"]) == MAX_SLIDES
    assert len(page.values()["filters"]["TOO_SMALL"]) == 25
    assert "65 slides without a problem are not listed here" in page.text


def test_page_tells_duplicates_that_are_in_two_splits():
    rows = rows_of("ok", "ok", "ok", "ok")
    ids = [row["slide_id"] for row in rows]
    facts = facts_of(rows)
    splits = pa.array(["train", "test", "train", "train"])
    facts = replace(
        facts,
        slides=facts.slides.set_column(facts.slides.column_names.index("split"), "split", splits),
        duplicates=(DuplicateGroup((ids[0], ids[1]), "same file"),
                    DuplicateGroup((ids[2], ids[2], "gone"), "")),
    )  # fmt: skip
    page = Page(cohort_page(facts, {}))
    assert page.text.count("results would look too good") == 1
    assert "same tissue is in test and train" in page.text


def test_page_warns_of_slides_whose_patches_are_mostly_rejected():
    rows = rows_of("ok", "ok")
    rows[0] |= {"num_patches": 10, "num_blurred": 9, "num_pen": 0, "num_white": 0}
    rows[1] |= {"num_patches": 10, "num_blurred": 9, "num_pen": 2, "num_white": 0}
    data = Page(cohort_page(facts_of(rows), {})).values()
    (place,) = data["filters"]["mostly-rejected"]
    assert data["columns"]["slide_id"][place] == rows[1]["slide_id"]


def test_page_shows_contact_sheets_that_belong_to_no_slide():
    page = Page(cohort_page(facts_of(rows_of("ok")), {"images-0-0": b"sheet"}))
    assert "overlays/images-0-0.png" in page.targets
    assert "Contact sheets" in page.text


@pytest.mark.parametrize(
    ("values", "chart"),
    [
        (np.random.default_rng(0).gamma(2, 50, 500), Chart("a", "b", "patches")),
        (np.array([0.0, 0.0, 0.3, 1.0]), Chart("a", "b", "patches", percent=True)),
        (np.log2([0.25, 0.5, 1.0, 1.0]), Chart("a", "b", "slides", octaves=True, mark=0.5)),
        (np.array([-3.0, 4.0, 0.0]), Chart("a", "b", "patches")),
        (np.array([7.0]), Chart("a", "b", "slides")),
    ],
)
def test_chart_bars_hold_every_value_and_lie_inside(values, chart):
    svg = histogram_svg(histogram_of(values), chart)
    counts = re.findall(r": ([\d,]+) (?:patches|slides)</title>", svg)
    assert sum(int(count.replace(",", "")) for count in counts) == len(values)
    for x, width in re.findall(r'<rect x="([\d.-]+)" y="[\d.]+" width="([\d.]+)"', svg):
        assert 0 <= float(x) <= float(x) + float(width) <= 340


def test_chart_with_zeros_apart_leaves_them_out():
    histogram = histogram_of(np.array([0.0, 0.0, 0.02]))
    chart = Chart("pen", "part", "patches", percent=True, zeros_apart=True)
    assert "1 patches from" in histogram_svg(histogram, chart)
    assert histogram_svg(histogram_of(np.zeros(3)), chart) == ""
