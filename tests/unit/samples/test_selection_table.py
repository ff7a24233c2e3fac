"""A Selection keeps accepted and rejected samples, in a balanced order."""

import pytest

from histodiff.errors import ArtifactNotFound
from histodiff.samples import Decision, Selection, write_selection
from histodiff.storage import storage_path

DECISIONS = [
    Decision(sample=5, label="b", rank=0, reason="ACCEPTED", distance=0.4, nearest="b"),
    Decision(sample=0, label="a", rank=1, reason="ACCEPTED", distance=0.2, nearest="a"),
    Decision(sample=2, label="a", rank=0, reason="ACCEPTED", distance=0.1, nearest="a"),
    Decision(sample=1, label="b", rank=None, reason="OTHER_CENTROID", distance=0.9, nearest="a"),
    Decision(sample=4, label="a", rank=2, reason="ACCEPTED", distance=0.3, nearest="a"),
]


def test_write_selection_order_goes_round_the_classes(tmp_path):
    path = storage_path(tmp_path)
    write_selection(path, DECISIONS)
    opened = Selection.open(path)
    assert opened.accepted()["sample"].to_pylist() == [2, 5, 0, 4]
    assert opened.counts() == {"a": 3, "b": 1}
    assert opened.rows["sample"].to_pylist() == [0, 1, 2, 4, 5]
    rejected = opened.rows.to_pylist()[1]
    assert (rejected["accepted"], rejected["order"], rejected["reason"]) == (
        False,
        -1,
        "OTHER_CENTROID",
    )


def test_counts_class_without_accepted_samples_is_zero(tmp_path):
    write_selection(storage_path(tmp_path), [DECISIONS[3]])
    assert Selection.open(storage_path(tmp_path)).counts() == {"b": 0}


def test_open_nothing_there_is_not_found(tmp_path):
    with pytest.raises(ArtifactNotFound):
        Selection.open(storage_path(tmp_path))
