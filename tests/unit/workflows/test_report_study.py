"""The study page: what it says follows from the predictions, and which split they are of."""

import json
from dataclasses import replace

import pytest

from histodiff.artifacts import open_artifact
from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.samples import Decision, write_selection
from histodiff.storage import storage_path
from histodiff.workflows.report import ReportConfig, report
from histodiff.workflows.report.study.guidance import guidance_effect
from histodiff.workflows.sweep.study import StudyConfig
from histodiff.workflows.sweep.trial_table import read_trials
from tests.support.fabricated_run import fabricate_patches, fabricate_sweep
from tests.support.fabricated_study import STUDY, fabricate_study

GAINS = {"variation": 0.03, "guided": 0.12, "pseudo-labels": 0.01, "perfect samples": 0.2}


def study_of(tmp_path, gains, **how):
    root = tmp_path / "runs"
    fabricate_patches(root, tmp_path / "images", per_slide=40)
    fabricate_study(root, gains, **how)
    values = {"name": "r", "version": "v1", "title": "t", "sweep": "s@v1", "images_per_class": 3}
    site = Site(root=str(root), ray={"type": "none"}, device="cpu")
    artifact = report(parse_config(ReportConfig, values, source="r.yaml"), site)
    data = json.loads((artifact.path / "report.json").read_text())
    return (artifact.path / "report.html").read_text(), data["study"]


def test_study_with_a_large_gain_reaches_its_goal_on_the_test(tmp_path):
    page, study = study_of(tmp_path, GAINS)
    assert "was reached: guided +" in study["headline"]
    family = [line["contrast"] for line in study["family"]]
    assert {(one["split"], one["in_family"]) for one in family} == {("test", True)}
    assert all(one["adjusted"] >= one["effect"]["p_value"] for one in family)
    best = [one for one in family if one["versus"] == "real only"]
    assert {one["arm"] for one in best} == {"guided"}  # best generative is guided: counted once
    assert len(best) == 2
    assert all(one["verdict"] == "better" for one in best)
    assert "Do generated images help" in page
    assert "Numbers of test patches: real only" in page


def test_study_without_a_gain_misses_its_goal_and_shows_no_effect(tmp_path):
    _, study = study_of(tmp_path, {"guided": 0.0005})
    assert " was missed: " in study["headline"]
    verdicts = {line["contrast"]["verdict"] for line in study["family"]}
    assert verdicts <= {"no effect shown", "not testable"}


def test_study_differences_are_those_of_the_predictions(tmp_path):
    _, study = study_of(tmp_path, GAINS)
    for table in study["tables"]:
        lines = {line["arm"]: line for line in table["lines"]}
        control = lines["real only"]["patch"]["balanced_accuracy"]["value"]
        for arm in ("variation", "guided", "perfect samples"):
            own = lines[arm]["patch"]["balanced_accuracy"]["value"]
            difference = lines[arm]["against_control"]["effect"]["value"]
            assert difference == pytest.approx(own - control)
        assert table["best"] == {"generative": "guided", "non_generative": "pseudo-labels"}


def test_study_scored_on_validation_only_says_so_and_proves_nothing(tmp_path):
    page, study = study_of(tmp_path, GAINS, splits=("val",))
    assert "as far as validation says, which is no proof" in study["headline"]
    assert {line["contrast"]["split"] for line in study["family"]} == {"val"}
    assert any(line.startswith("Numbers of validation patches") for line in study["splits"])
    assert "Numbers of test patches" not in page


def test_study_best_arms_without_validation_numbers_are_not_chosen_on_the_test(tmp_path):
    _, study = study_of(tmp_path, GAINS, splits=("test",))
    assert [table["best"] for table in study["tables"]] == [{}, {}]
    limits = " ".join(study["limits"])
    assert "no generative arm has validation numbers" in limits
    assert "Best generative against real only could not be compared." in limits
    # two that could not be made count: the others are corrected for four
    (one, other) = sorted(line["contrast"]["effect"]["p_value"] for line in study["family"])
    adjusted = sorted(line["contrast"]["adjusted"] for line in study["family"])
    assert adjusted == pytest.approx([min(1, 4 * one), min(1, max(4 * one, 3 * other))])


def test_study_with_two_label_draws_concludes_nothing(tmp_path):
    _, study = study_of(tmp_path, GAINS, seeds=2)
    assert {line["contrast"]["verdict"] for line in study["family"]} == {"not testable"}
    assert "2 label draws" in " ".join(study["limits"])


def test_study_with_few_patients_says_that_no_number_of_draws_suffices(tmp_path):
    how = {"patients": 4, "study": {**STUDY, "half_width_points": 0.2}}
    _, study = study_of(tmp_path, GAINS, **how)
    assert any("no number suffices" in line["needed"] for line in study["family"])


def test_study_counts_confusion_as_shares_of_each_class(tmp_path):
    _, study = study_of(tmp_path, GAINS)
    for item in study["confusion"]:
        assert [sum(row) for row in item["shares"]] == pytest.approx([1.0, 1.0])


def test_guidance_shows_agreement_and_diversity_of_every_scale(tmp_path):
    root = storage_path(str(tmp_path / "runs"))
    fabricate_sweep(root, [0.1, 0.2])
    rows = [
        replace(row, metrics={"samples.recall": 1 / row.axes["guidance_scale"]})
        if row.command == "synthesize"
        else row
        for row in read_trials(root / "sweeps" / "s" / "v1")
    ]
    for row in rows:
        if row.command == "select":
            decisions = [Decision(n, "benign", None, "X", nearest="benign") for n in range(3)]
            decisions.append(Decision(3, "benign", None, "X", nearest="cancer"))
            write_selection(open_artifact(root, row.artifact).path, decisions)
    study = StudyConfig(question="?", guidance="guidance_scale")
    alt = guidance_effect(root, rows, study, "balanced_accuracy").alt
    assert "recall 1.000 at 1, 0.333 at 3" in alt
    assert "agreement with the nearest class 0.750 at 1, 0.750 at 3" in alt
    at_one = [row for row in rows if row.axes.get("guidance_scale") in (None, 1.0)]
    assert guidance_effect(root, at_one, study, "balanced_accuracy") is None
