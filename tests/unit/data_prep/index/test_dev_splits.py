import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histodiff.config import parse_config
from histodiff.data_prep.index.dev_splits import DevSplit, redrawn_splits, require_undivided
from histodiff.errors import ConfigError


def rows(patients=20, each=6):
    number = np.repeat(np.arange(patients), each)
    return pa.table(
        {
            "slide_id": [f"s{n}-{k % 2}" for k, n in enumerate(number)],
            "patient_id": [f"p{n}" for n in number],
            "label": ["ab"[n % 2] for n in number],
            "split": ["test" if n < 5 else "val" if n < 8 else "train" for n in number],
        }
    )


def redrawn(table, *, seed, **changed):
    config = DevSplit.model_validate({"val": 0.3, **changed})
    return table.set_column(3, "split", redrawn_splits(table, config, seed=seed))


@given(st.integers(0, 500))
def test_redrawn_splits_never_touch_the_test_and_never_part_a_patient(seed):
    before, after = rows(), redrawn(rows(), seed=seed)
    for old, new in zip(before["split"].to_pylist(), after["split"].to_pylist(), strict=True):
        assert (old == "test") == (new == "test")
    parts = after.group_by(["patient_id", "split"]).aggregate([])
    assert parts.num_rows == 20
    val = [row["patient_id"] for row in parts.to_pylist() if row["split"] == "val"]
    assert {int(name[1:]) % 2 for name in val} == {0, 1}  # both classes
    assert len(val) in (4, 5)


def test_redrawn_splits_differ_between_seeds_and_a_seed_of_their_own_stays():
    table = rows()
    found = {tuple(redrawn(table, seed=seed)["split"].to_pylist()) for seed in range(5)}
    assert len(found) > 3
    own = {
        tuple(redrawn_splits(table, DevSplit(val=0.3, seed=4), seed=seed).to_pylist())
        for seed in range(5)
    }
    assert len(own) == 1


def test_redrawn_splits_do_not_depend_on_the_order_of_rows():
    table = rows()
    order = np.random.default_rng(0).permutation(table.num_rows)
    expected = redrawn(table, seed=3).take(order)["split"].to_pylist()
    assert redrawn(table.take(order), seed=3)["split"].to_pylist() == expected


def test_redrawn_splits_of_a_slide_of_two_patients_are_a_config_error():
    table = rows()
    patients = table["patient_id"].to_pylist()
    patients[-1] = patients[-7]  # one patch of the last slide is of the patient before
    mixed = table.set_column(1, "patient_id", pa.array(patients))
    with pytest.raises(ConfigError, match=r"slide s19-1 is of two patients, p1[89] and p1[89]"):
        redrawn(mixed, seed=0)
    redrawn(mixed, seed=0, group_by="slide")


def test_redrawn_splits_of_test_patients_alone_are_a_config_error():
    table = rows().filter(pc.equal(rows()["split"], "test"))
    with pytest.raises(ConfigError, match="0 patients are outside the test; two are needed"):
        redrawn(table, seed=0)


def slides(patients, groups):
    return pa.table(
        {
            "slide_id": [f"s{n}" for n in range(len(patients))],
            "patient_id": patients,
            "duplicate_group": pa.array(groups, pa.string()),
        }
    )


def test_a_division_that_could_part_the_same_tissue_is_refused():
    config = parse_config(DevSplit, {"val": 0.3}, source="here")
    require_undivided(slides(["p", "p", "q"], ["x", "x", None]), config)
    with pytest.raises(ConfigError, match="s1 and s2 show the same tissue but differ in patient"):
        require_undivided(slides(["p", "p", "q"], [None, "x", "x"]), config)
