"""What the report says of guides: scores beside chance, and no sentence that is not computed."""

import json

import pytest

from histodiff.workflows.guide import guide
from histodiff.workflows.report.guides import SCORES, guides_shown
from histodiff.workflows.sweep.trial_table import TrialRow
from tests.support.labelled_configs import guide_config
from tests.unit.workflows.test_guide_kinds import KINDS, trained


def rows_of(artifact, *, seeds=(0,), **axes):
    return [
        TrialRow(
            step="guide", arm=None, command="guide", artifact=artifact.reference, seed=seed,
            axes=axes, error=None,
        )
        for seed in seeds
    ]  # fmt: skip


def rewritten(artifact, **changes):
    path = artifact.path / "metrics.json"
    path.write_bytes(json.dumps({**json.loads(path.read_bytes()), **changes}).encode())


def bins_with(*losses):
    return [
        {
            "sigma_low": 0.1 * 4**n, "sigma_high": 0.1 * 4 ** (n + 1), "accuracy": 0.5,
            "cross_entropy": loss, "balanced_accuracy": 0.6, "auc": None, "log_loss": loss,
            "ece": 0.1, "num": 8,
        }
        for n, loss in enumerate(losses)
    ]  # fmt: skip


def test_both_kinds_of_slides_are_shown_with_every_score(encoded):
    artifact = trained(encoded, "features")
    shown = guides_shown(encoded.storage_root, rows_of(artifact, count=2))
    assert [table.judged_on for table in shown.tables] == [
        "labelled slides held out in turn", "validation slides",
    ]  # fmt: skip
    metrics = json.loads((artifact.path / "metrics.json").read_bytes())
    for table, key in zip(
        shown.tables, ("cross_fitted_by_sigma", "accuracy_by_sigma"), strict=True
    ):
        for score in SCORES:
            assert table.scores[score] == pytest.approx([each[score] for each in metrics[key]])
    assert "features" in shown.tables[0].name
    assert shown.chance["log_loss"] == pytest.approx(0.693, abs=1e-3)
    assert any("layers" in line for line in shown.chosen)
    assert len(shown.figures) == 2


def test_verdict_counts_the_bins_below_chance_and_seeds_are_averaged(encoded):
    first, second = trained(encoded, "features"), trained(encoded, "clean")
    rewritten(first, accuracy_by_sigma=bins_with(0.5, 0.8), cross_fitted_by_sigma=[])
    rewritten(second, accuracy_by_sigma=bins_with(0.7, 0.9), cross_fitted_by_sigma=[])
    (alone,) = guides_shown(encoded.storage_root, rows_of(second)).tables
    assert alone.verdict == "log loss below that of chance (0.693) in 0 of 2 bins"
    third = guide(guide_config(name="third", kind=KINDS["features"]), encoded)
    rewritten(third, accuracy_by_sigma=bins_with(0.6, 0.9), cross_fitted_by_sigma=[])
    (twice,) = guides_shown(encoded.storage_root, rows_of(first) + rows_of(third)).tables
    assert twice.num_seeds == 2
    assert twice.scores["log_loss"] == pytest.approx([0.55, 0.85])
    assert twice.scores["auc"] == [None, None]
    assert twice.verdict == "log loss below that of chance (0.693) in 1 of 2 bins"


def test_guides_of_before_are_not_shown(encoded):
    artifact = trained(encoded, "clean")
    path = artifact.path / "metrics.json"
    old = {"labelled": {}, "split": "val", "accuracy_by_sigma": [
        {"sigma_low": 0.1, "sigma_high": 1.0, "accuracy": 0.7, "cross_entropy": 0.6, "num": 8}
    ]}  # fmt: skip
    path.write_bytes(json.dumps(old).encode())
    assert guides_shown(encoded.storage_root, rows_of(artifact)) is None
