"""What a report says of settings that were chosen on validation slides."""

import pytest

from histodiff.config import parse_config
from histodiff.workflows.report.choices import (
    choice_sentences,
    scored_on_test,
    settings_compared,
)
from histodiff.workflows.report.comparisons import results
from histodiff.workflows.sweep import SweepConfig
from histodiff.workflows.sweep.choice import chosen_settings
from histodiff.workflows.sweep.trial_table import TrialRow

STEP = {"command": "classify", "config": {}}


def plan(**changed):
    values = {
        "name": "s",
        "version": "v1",
        "artifacts": {},
        "steps": {"real": STEP, "guided": STEP},
        "search": {
            "scale": {"sets": ["guided.scale"], "values": [1, 2]},
            "ratio": {"sets": ["guided.ratio"], "values": [1, 3]},
        },
        "seeds": [0, 1],
        "arms": [{"label": "real only", "step": "real"}, {"label": "guided", "step": "guided"}],
        "control": "real only",
        **changed,
    }
    return parse_config(SweepConfig, values, source="s.yaml")


CHOOSE = {"axes": ["scale", "ratio"], "metric": "auc"}


def row(step, seed, axes, *, arm=None, candidate_of=None, error=None, **metrics):
    return TrialRow(
        step, arm, "classify", "classifiers/a@1", seed, axes, error, metrics, candidate_of
    )


def candidates():
    return [
        row("guided", seed, {"scale": scale, "ratio": ratio}, candidate_of="guided",
            val_auc=0.5 + scale / 10 - ratio / 20)
        for seed in (0, 1) for scale in (1, 2) for ratio in (1, 3)
    ]  # fmt: skip


def test_heat_tables_of_a_choice_show_validation_alone():
    rows = [row("real", 0, {}, arm="real only", auc=0.9, val_auc=0.5), *candidates()]
    (table,) = settings_compared(plan(choose=CHOOSE), rows, [], metric="auc", level=0.95)
    assert (table.arm, table.metric) == ("guided", "val_auc")
    cells = [[cell.mean for cell in line] for line in table.cells]
    assert cells == [pytest.approx([0.55, 0.45]), pytest.approx([0.65, 0.55])]


@pytest.mark.parametrize(("extra", "metric"), [({"val_auc": 0.5}, "val_auc"), ({}, "auc")])
def test_heat_tables_without_a_choice_prefer_validation_and_name_what_they_show(extra, metric):
    rows = [
        row("guided", seed, {"scale": scale, "ratio": ratio}, arm="guided", auc=0.7, **extra)
        for seed in (0, 1) for scale in (1, 2) for ratio in (1, 3)
    ]  # fmt: skip
    rows.append(row("real", 0, {}, arm="real only", auc=0.7, **extra))
    found = settings_compared(plan(), rows, results(rows, level=0.95), metric="auc", level=0.95)
    assert [table.metric for table in found] == [metric]


def test_sentences_say_what_was_chosen_and_who_saw_the_test():
    config = plan(choose=CHOOSE)
    (line,) = choice_sentences(list(chosen_settings(config, candidates()).values()))
    assert line == "guided: scale 2, ratio 1, of 4 settings, by validation AUC 0.650 over 2 seeds."
    assert "real only, guided" in scored_on_test(config)
    assert scored_on_test(plan()) is None


def test_a_setting_that_ended_for_fewer_seeds_stands_behind_the_others():
    rows = [r for r in candidates() if (r.seed, r.axes["scale"], r.axes["ratio"]) != (0, 2, 1)]
    (choice,) = chosen_settings(plan(choose=CHOOSE), rows).values()
    assert choice.values in ({"scale": 1, "ratio": 1}, {"scale": 2, "ratio": 3})
    assert {option.seeds for option in choice.options} == {1, 2}


def test_metrics_that_were_not_scored_leave_nothing_to_choose():
    rows = [row("guided", 0, {"scale": 1, "ratio": 1}, candidate_of="guided", error="no good")]
    assert chosen_settings(plan(choose=CHOOSE), rows) == {}
