import json
from html.parser import HTMLParser

import pytest

from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.errors import ConfigError
from histodiff.evaluation.sentences import points
from histodiff.workflows.report import ReportConfig, report
from histodiff.workflows.report.comparisons import comparisons, results
from histodiff.workflows.sweep.trial_table import TrialRow
from tests.support.fabricated_run import fabricate_networks, fabricate_patches, fabricate_sweep

VALUES = {
    "name": "r",
    "version": "v1",
    "title": "A report <of> tests",
    "patches": ["target@v1"],
    "autoencoder": "ae@v1",
    "denoiser": "d@v1",
    "sweep": "s@v1",
    "images_per_class": 3,
    "notes": ["Slides are generated."],
}


class Links(HTMLParser):
    """Everything in the page that a browser would load or go to, and every picture's alt text."""

    def __init__(self):
        super().__init__()
        self.targets, self.alts, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "poster", "srcset"):
                self.targets.append(value)
        if tag == "img":
            self.alts.append(dict(attrs).get("alt"))


def rendered(tmp_path, gains):
    root = tmp_path / "runs"
    fabricate_patches(root, tmp_path / "images")
    fabricate_networks(root)
    fabricate_sweep(root, gains)
    site = Site(root=str(root), ray={"type": "none"}, device="cpu")
    artifact = report(parse_config(ReportConfig, VALUES, source="r.yaml"), site)
    page = (artifact.path / "report.html").read_text()
    return page, json.loads((artifact.path / "report.json").read_text())


def test_report_with_an_interval_around_zero_says_no_effect_shown(tmp_path):
    page, data = rendered(tmp_path, gains=[0.02, -0.02, 0.01])
    assert {item["verdict"] for item in data["compared"]["comparisons"]} == {"no effect shown"}
    assert "no effect shown. +0.3 points of balanced accuracy" in page
    assert "the interval contains zero" in page
    assert data["compared"]["headline"].endswith("4 settings: 4 with no effect shown.")


def test_report_with_a_steady_gain_says_better_and_still_states_limits(tmp_path):
    _, data = rendered(tmp_path, gains=[0.050, 0.052, 0.051])
    compared = data["compared"]
    assert {item["verdict"] for item in compared["comparisons"]} == {"better"}
    limits = " ".join(compared["limits"])
    assert "Slides are generated." in limits
    assert "over 3 seeds, which is few" in limits
    assert "one test split: 4 patches of 2 slides, which is few" in limits
    assert "uncertain by about 10.0 points" in limits
    assert "4 intervals are looked at and none is corrected" in limits


def test_report_with_one_seed_concludes_nothing(tmp_path):
    _, data = rendered(tmp_path, gains=[0.3])
    assert {item["verdict"] for item in data["compared"]["comparisons"]} == {"not testable"}
    assert "nothing can be concluded" in " ".join(data["compared"]["limits"])


def test_report_with_two_seeds_concludes_nothing(tmp_path):
    page, data = rendered(tmp_path, gains=[0.30, 0.31])
    compared = data["compared"]
    assert {item["verdict"] for item in compared["comparisons"]} == {"not testable"}
    assert "2 seeds are fewer than 3, so nothing can be concluded." in page
    assert "no verdict is given from fewer than 3" in " ".join(compared["limits"])
    assert compared["headline"].endswith("4 settings: 4 not testable.")


def test_report_with_equal_gains_in_every_seed_concludes_nothing(tmp_path):
    page, data = rendered(tmp_path, gains=[0.0731, 0.0731, 0.0731])
    compared = data["compared"]
    assert {item["verdict"] for item in compared["comparisons"]} == {"not testable"}
    assert {item["difference"]["low"] for item in compared["comparisons"]} == {None}
    assert "All 3 paired differences are equal: a spread of zero gives no interval" in page


def test_report_intervals_stay_between_zero_and_one(tmp_path):
    _, data = rendered(tmp_path, gains=[0.38, -0.55])
    intervals = [
        metric for item in data["compared"]["results"] for metric in item["metrics"].values()
    ]
    assert all(0 <= found["low"] <= found["high"] <= 1 for found in intervals)
    differences = [item["difference"] for item in data["compared"]["comparisons"]]
    assert all(-1 <= found["low"] <= found["high"] <= 1 for found in differences)
    assert any(found["high"] == 1 for found in intervals)


def test_report_loads_nothing_from_elsewhere(tmp_path):
    page, _ = rendered(tmp_path, gains=[0.0, 0.01])
    links = Links()
    links.feed(page)
    assert links.targets
    assert all(target.startswith(("data:image/", "#")) for target in links.targets)
    assert not links.tags & {"script", "link", "iframe", "object"}
    assert "url(" not in page
    assert "@import" not in page


def test_report_pictures_have_alt_texts(tmp_path):
    page, _ = rendered(tmp_path, gains=[0.0, 0.01])
    links = Links()
    links.feed(page)
    assert len(links.alts) > 10
    assert all(links.alts)


def test_report_shows_skipped_slides_with_their_reason_escaped(tmp_path):
    page, data = rendered(tmp_path, gains=[0.0, 0.01])
    assert "blank &lt;glass&gt;" in page
    assert "A report &lt;of&gt; tests" in page
    assert data["cohorts"][0]["by_status"] == {"NO_TISSUE": 1, "ok": 6}


def test_report_shows_selection_counts(tmp_path):
    _, data = rendered(tmp_path, gains=[0.0, 0.01])
    shown = data["selections"][0]
    assert (shown["accepted"], shown["total"]) == (4, 6)
    assert shown["reasons"]["benign"] == {"ACCEPTED": 2, "OTHER_CENTROID": 1}


def test_report_of_nothing_is_an_error():
    with pytest.raises(ConfigError, match="at least one of patches, autoencoder"):
        parse_config(ReportConfig, {"name": "r", "version": "v1", "title": "t"}, source="r.yaml")


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "+1.2"), (-0.5, "-50.0"), (0.0001, "0.0"), (-0.0001, "0.0")]
)
def test_points_are_signed_percentage_points(value, text):
    assert points(value) == text


def row(arm, seed, value, **axes):
    return TrialRow(arm, arm, "classify", "classifiers/a@1", seed, axes, None, {"accuracy": value})


def test_comparisons_pair_equal_seeds_and_shared_settings_only():
    rows = [
        row("real", 0, 0.5, budget=2), row("real", 1, 0.7, budget=2), row("real", 0, 0.1, budget=5),
        row("fake", 1, 0.8, budget=2, scale=1), row("fake", 0, 0.6, budget=2, scale=1),
    ]  # fmt: skip
    (found,) = comparisons(
        rows, arms=("real", "fake"), control="real", metric="accuracy", level=0.95
    )
    assert found.difference.mean == pytest.approx(0.1)
    assert found.difference.num == 2
    assert found.settings == {"budget": 2, "scale": 1}


def test_comparisons_compare_the_other_arms_with_each_other():
    rows = [row(arm, seed, 0.5 + seed / 10) for arm in "abc" for seed in (0, 1)]
    found = comparisons(rows, arms=("a", "b", "c"), control="a", metric="accuracy", level=0.95)
    assert [(item.arm, item.versus) for item in found] == [("b", "a"), ("c", "a"), ("c", "b")]


def test_results_take_t_intervals_over_seeds():
    (found,) = results([row("a", seed, 0.5 + seed / 10) for seed in range(3)], level=0.95)
    interval = found.metrics["accuracy"]
    assert interval.mean == pytest.approx(0.6)
    assert interval.high - interval.mean == pytest.approx(4.302652729911275 * 0.1 / 3**0.5)
