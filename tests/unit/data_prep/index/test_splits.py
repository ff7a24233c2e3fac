from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histodiff.config import parse_config
from histodiff.data_prep.index.disjoint import assert_disjoint
from histodiff.data_prep.index.splits import (
    AllLabels,
    Fraction,
    Patches,
    PatchesPerClass,
    SlidesPerClass,
    SplitConfig,
    assign_splits,
    labelled_subset,
)
from histodiff.errors import ConfigError


def slides_table(count: int, *, slides_per_patient: int = 1) -> pa.Table:
    return pa.table(
        {
            "slide_id": [f"slide-{n}" for n in range(count)],
            "patient_id": [f"patient-{n // slides_per_patient}" for n in range(count)],
            "site": pa.array([None] * count, pa.string()),
        }
    )


def patch_rows(slides: int = 12, each: int = 10, split: str = "train") -> pa.Table:
    number = np.repeat(np.arange(slides), each)
    return pa.table(
        {
            "slide_id": [f"s{n:02d}" for n in number],
            "patient_id": [f"s{n:02d}" for n in number],
            "label": ["ab"[n % 2] for n in number],
            "split": [split if n < slides - 2 else "test" for n in number],
        }
    )


def slides_budget(count: int) -> SlidesPerClass:
    return SlidesPerClass(type="slides_per_class", count=count)


def config(**changes: object) -> SplitConfig:
    return SplitConfig.model_validate({"val": 0.2, "test": 0.3, "seed": 0, **changes})


def test_assign_splits_grouped_by_patient_keeps_patients_together() -> None:
    slides = slides_table(40, slides_per_patient=4)
    split_of = assign_splits(slides, config(group_by="patient"))
    for patient in range(10):
        assert len({split_of[f"slide-{4 * patient + n}"] for n in range(4)}) == 1
    assert list(split_of.values()).count("test") == 12
    assert list(split_of.values()).count("val") == 8


def test_assign_splits_does_not_depend_on_the_order_of_slides() -> None:
    slides = slides_table(30)
    backwards = slides.take(list(reversed(range(30))))
    assert assign_splits(slides, config()) == assign_splits(backwards, config())


def test_assign_splits_stratified_gives_every_class_to_every_split() -> None:
    labels = {f"slide-{n}": "rare" if n < 3 else "common" for n in range(40)}
    split_of = assign_splits(slides_table(40), config(), labels=labels)
    assert {split_of[f"slide-{n}"] for n in range(3)} == {"train", "val", "test"}


@given(st.integers(1, 30), st.integers(0, 1000))
def test_assign_splits_always_leaves_a_group_for_training(count: int, seed: int) -> None:
    split_of = assign_splits(slides_table(count), config(val=0.45, test=0.5, seed=seed))
    assert "train" in split_of.values()


@given(
    st.dictionaries(st.integers(0, 23), st.sampled_from("abcd")),
    st.integers(0, 100),
    st.sampled_from([1, 3]),
)
def test_assign_splits_never_parts_slides_that_are_the_same(
    same: dict[int, str], seed: int, slides_per_patient: int
) -> None:
    slides = slides_table(24, slides_per_patient=slides_per_patient)
    named = {f"slide-{number}": value for number, value in same.items()}
    split_of = assign_splits(slides, config(seed=seed), same=named)
    for value in set(named.values()):
        assert len({split_of[slide] for slide in named if named[slide] == value}) == 1
    for patient in range(24 // slides_per_patient):
        numbers = range(patient * slides_per_patient, (patient + 1) * slides_per_patient)
        assert len({split_of[f"slide-{number}"] for number in numbers}) == 1


def test_assign_splits_joins_patients_over_a_chain_of_same_slides() -> None:
    slides = slides_table(30, slides_per_patient=2)
    same = {f"slide-{n}": f"pair-{(n - 1) // 2}" for n in range(1, 19)}  # patients 0 to 9
    splits = [assign_splits(slides, config(seed=seed), same=same) for seed in range(20)]
    for split_of in splits:
        assert len({split_of[f"slide-{n}"] for n in range(20)}) == 1
    assert {split_of["slide-0"] for split_of in splits} == {"train", "val", "test"}


def test_assign_splits_where_no_two_slides_are_the_same_is_the_plain_split() -> None:
    slides = slides_table(40, slides_per_patient=2)
    plain = assign_splits(slides, config())
    assert assign_splits(slides, config(), same={}) == plain
    assert assign_splits(slides, config(), same={"slide-3": "x", "slide-8": "y"}) == plain
    assert assign_splits(slides, config(), same={"slide-2": "x", "slide-3": "x"}) == plain


def test_assign_splits_by_site_without_sites_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="site"):
        assign_splits(slides_table(4), config(group_by="site"))


def test_split_config_without_training_data_names_both_fractions() -> None:
    with pytest.raises(ConfigError, match=r"val \+ test"):
        parse_config(SplitConfig, {"val": 0.5, "test": 0.5, "seed": 0}, source="here")


def test_labelled_subset_slides_per_class_takes_whole_training_slides() -> None:
    rows = patch_rows()
    chosen = rows.take(labelled_subset(rows, budget=slides_budget(2), seed=1)).to_pylist()
    slides = {row["slide_id"] for row in chosen}
    assert len(chosen) == 40
    assert len(slides) == 4
    assert {row["split"] for row in chosen} == {"train"}


def test_labelled_subset_larger_budget_contains_the_smaller() -> None:
    rows = patch_rows()
    for small, large in [
        (slides_budget(1), slides_budget(3)),
        (Fraction(type="fraction", fraction=0.1), Fraction(type="fraction", fraction=0.4)),
        (Patches(type="patches", count=7), Patches(type="patches", count=20)),
    ]:  # fmt: skip
        less = labelled_subset(rows, budget=small, seed=5)
        more = labelled_subset(rows, budget=large, seed=5)
        assert set(less) < set(more)


def test_labelled_subset_patches_are_balanced_and_counted() -> None:
    rows = patch_rows()
    chosen = labelled_subset(rows, budget=Patches(type="patches", count=7), seed=0)
    labels = rows.take(chosen)["label"].to_pylist()
    assert (labels.count("a"), labels.count("b")) == (4, 3)


def test_labelled_subset_differs_between_seeds_and_leaves_out_the_unlabelled() -> None:
    rows = patch_rows()
    budget = Fraction(type="fraction", fraction=0.2)
    assert list(labelled_subset(rows, budget=budget, seed=0)) != list(
        labelled_subset(rows, budget=budget, seed=1)
    )
    nulls = rows.set_column(2, "label", pa.array([None] * 60 + ["a"] * 60, pa.string()))
    assert labelled_subset(nulls, budget=AllLabels(type="all"), seed=0).min() == 60


@pytest.mark.parametrize(
    "budget",
    [SlidesPerClass(type="slides_per_class", count=99), Patches(type="patches", count=999)],
)
def test_labelled_subset_beyond_what_there_is_names_the_class(budget: SlidesPerClass) -> None:
    with pytest.raises(ConfigError, match=r"class 'a'.*lower budget\.count"):
        labelled_subset(patch_rows(), budget=budget, seed=0)


def few(count: int, **limit: int) -> PatchesPerClass:
    return PatchesPerClass(type="patches_per_class", count=count, **limit)


def mixed_rows(patients: int = 30, seed: int = 0) -> pa.Table:
    """Patients with different numbers of nuclei of three classes; the last three are the test."""
    rng = np.random.default_rng(seed)
    each = [(n, k) for n in range(patients) for k in range(3) for _ in range(rng.integers(0, 9))]
    order = rng.permutation(len(each))
    numbers = [each[place] for place in order]
    return pa.table(
        {
            "slide_id": [f"s{n}-{k}" for n, k in numbers],
            "patient_id": [f"p{n}" for n, _ in numbers],
            "label": ["abc"[k] for _, k in numbers],
            "split": ["test" if n >= patients - 3 else "train" for n, _ in numbers],
        }
    )


@pytest.mark.parametrize("seed", range(8))
def test_labelled_subset_of_few_patients_has_every_class_and_no_more_patients(seed: int) -> None:
    rows = mixed_rows()
    for count in (3, 8, 15):
        used = rows.take(labelled_subset(rows, budget=few(count, max_patients=5), seed=seed))
        assert used["label"].value_counts().to_pylist() == [
            {"values": label, "counts": count} for label in used["label"].unique().to_pylist()
        ]
        assert len(used["label"].unique()) == 3
        assert len(used["patient_id"].unique()) <= 5
        assert used["split"].unique().to_pylist() == ["train"]


def test_labelled_subset_of_few_patients_is_nested_where_the_same_patients_have_enough() -> None:
    rows = mixed_rows()
    nested = []
    for seed in range(20):
        less = set(labelled_subset(rows, budget=few(3, max_patients=6), seed=seed))
        more = set(labelled_subset(rows, budget=few(8, max_patients=6), seed=seed))
        shared = rows.take(sorted(less | more))["patient_id"].unique()
        assert less < more or len(shared) > 6
        nested.append(less < more)
    assert sum(nested) > 10


def test_labelled_subset_of_few_patients_draws_the_same_ones_from_shuffled_rows() -> None:
    rows = mixed_rows()
    budget = few(4, max_patients=4)
    used = rows.take(labelled_subset(rows, budget=budget, seed=2))
    shuffled = rows.take(np.random.default_rng(1).permutation(rows.num_rows))
    again = shuffled.take(labelled_subset(shuffled, budget=budget, seed=2))
    assert set(again["patient_id"].to_pylist()) == set(used["patient_id"].to_pylist())


@pytest.mark.parametrize("seed", range(6))
def test_labelled_subset_of_few_patients_takes_every_class_from_several_in_turns(seed: int) -> None:
    rows = mixed_rows()
    used = rows.take(labelled_subset(rows, budget=few(6, max_patients=4, min_groups=3), seed=seed))
    for label in "abc":
        found = Counter(row["patient_id"] for row in used.to_pylist() if row["label"] == label)
        assert len(found) >= 3
        there = Counter(
            row["patient_id"]
            for row in rows.to_pylist()
            if row["label"] == label and row["patient_id"] in used["patient_id"].to_pylist()
        )
        most = max(found.values())
        assert all(count in (there[name], most, most - 1) for name, count in found.items())


def test_labelled_subset_of_few_slides_counts_slides_over_all_classes() -> None:
    rows = patch_rows()
    used = rows.take(labelled_subset(rows, budget=few(8, max_slides=2), seed=1))
    assert len(used) == 16
    assert len(used["slide_id"].unique()) == 2  # one of each class


def test_labelled_subset_of_patches_per_class_without_a_limit_is_of_any_slide() -> None:
    rows = patch_rows()
    less = labelled_subset(rows, budget=few(8), seed=1)
    assert set(less) < set(labelled_subset(rows, budget=few(20), seed=1))
    assert len(rows.take(less)["slide_id"].unique()) > 4


def test_labelled_subset_that_few_patients_do_not_have_names_budget_and_fix() -> None:
    expected = r"8 patches of each class from at most 1 patients.*raise budget\.max_patients"
    with pytest.raises(ConfigError, match=expected):
        labelled_subset(patch_rows(), budget=few(8, max_patients=1), seed=0)


def test_budget_from_more_groups_than_there_may_be_is_a_config_error() -> None:
    values = {"type": "patches_per_class", "count": 9, "max_patients": 2, "min_groups": 3}
    with pytest.raises(ConfigError, match="min_groups=3 must not exceed"):
        parse_config(PatchesPerClass, values, source="here")


def test_budget_with_two_limits_is_a_config_error() -> None:
    values = {"type": "patches_per_class", "count": 1, "max_slides": 1, "max_patients": 1}
    with pytest.raises(ConfigError, match="max_slides or max_patients, not both"):
        parse_config(PatchesPerClass, values, source="here")


def test_assert_disjoint_finds_a_shared_patient() -> None:
    rows = patch_rows()
    assert_disjoint(rows)
    shared = rows.set_column(1, "patient_id", pa.array(["p"] * rows.num_rows))
    with pytest.raises(ConfigError, match="patient"):
        assert_disjoint(shared)
