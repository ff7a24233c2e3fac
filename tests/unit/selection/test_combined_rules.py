"""Filters, quotas and one order in combination."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histodiff.selection.config import Reason
from histodiff.selection.judgement import Judgement, Quota, decided, eligible, random_order

REASONS = (Reason.OTHER_CENTROID, Reason.UNSURE, Reason.UNREAL, Reason.COPY)


def judgement(place, passes):
    score = np.where(passes, 1.0, 0.0) + np.arange(len(passes)) / 1000
    return Judgement(f"rule{place}", REASONS[place], np.array(passes, bool), score)


def made(judgements, *, labels, order=None, quotas=(), cap=1000):
    samples, labels = list(range(len(labels))), list(labels)
    order = np.arange(len(labels), dtype=float) if order is None else np.asarray(order, float)
    return decided(
        samples, labels, judgements=judgements, quotas=quotas, order_N=order, max_per_class=cap
    )


@st.composite
def judged_samples(draw):
    count = draw(st.integers(1, 12))
    flags = st.lists(st.booleans(), min_size=count, max_size=count)
    passes = draw(st.lists(flags, min_size=1, max_size=4))
    labels = draw(st.lists(st.sampled_from("ab"), min_size=count, max_size=count))
    return [judgement(place, flags) for place, flags in enumerate(passes)], labels


@settings(deadline=None, max_examples=60)
@given(judged_samples(), st.data())
def test_removing_a_rule_never_accepts_fewer_before_ranking(case, data):
    judgements, labels = case
    removed = data.draw(st.integers(0, len(judgements) - 1))
    rest = judgements[:removed] + judgements[removed + 1 :]
    before, after = (eligible(some, count=len(labels)) for some in (judgements, rest))
    assert (before <= after).all()
    accepted = [sum(d.rank is not None for d in made(some, labels=labels).decisions)
                for some in (judgements, rest)]  # fmt: skip
    assert accepted == [before.sum(), after.sum()]


@settings(deadline=None, max_examples=40)
@given(judged_samples(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_order_of_rules_changes_reasons_and_nothing_else(case, cap, shuffled):
    judgements, labels = case
    other = judgements[:]
    shuffled.shuffle(other)
    first, second = (made(some, labels=labels, cap=cap) for some in (judgements, other))
    assert [d.rank for d in first.decisions] == [d.rank for d in second.decisions]
    assert [set(r) for r in first.reasons] == [set(r) for r in second.reasons]


def test_reason_is_the_first_rule_that_fails_and_all_are_kept():
    found = made([judgement(0, [1, 0, 0]), judgement(1, [1, 1, 0])], labels="aaa")
    assert [d.reason for d in found.decisions] == ["ACCEPTED", "OTHER_CENTROID", "OTHER_CENTROID"]
    assert found.reasons == [[], [REASONS[0]], [REASONS[0], REASONS[1]]]


def test_highest_score_of_each_class_is_taken_first_and_the_cap_ends_it():
    found = made([], labels="aabbab", order=[1, 5, 2, 3, 4, 2], cap=2)
    assert [d.rank for d in found.decisions] == [None, 0, 1, 0, 1, None]
    assert found.decisions[0].reason == found.decisions[5].reason == Reason.OVER_CAP


def test_quota_a_crowded_group_gives_no_more_than_its_share():
    groups = [0] * 80 + [1] * 10 + [2] * 10
    order = np.arange(100)[::-1]  # the crowd comes first
    quota = Quota("cluster_quota", Reason.CLUSTER_FULL, groups, slack=1.0)
    found = made([], labels="a" * 100, order=order, quotas=[quota], cap=30)
    taken = [groups[d.sample] for d in found.decisions if d.rank is not None]
    assert [taken.count(group) for group in (0, 1, 2)] == [10, 10, 10]
    assert sum(d.reason == Reason.CLUSTER_FULL for d in found.decisions) == 70
    free = made([], labels="a" * 100, order=order, cap=30)
    assert {groups[d.sample] for d in free.decisions if d.rank is not None} == {0}


def test_quotas_two_kinds_hold_at_once():
    clusters = [n % 2 for n in range(40)]
    slides = [f"s{n % 4}" for n in range(40)]
    quotas = [
        Quota("clusters", Reason.CLUSTER_FULL, clusters, slack=1.0),
        Quota("slides", Reason.SOURCE_FULL, slides, slack=1.0),
    ]
    found = made([], labels="a" * 40, quotas=quotas, cap=8)
    taken = [d.sample for d in found.decisions if d.rank is not None]
    assert sorted(slides[s] for s in taken) == sorted(["s0", "s1", "s2", "s3"] * 2)
    assert sum(clusters[s] for s in taken) == 4


def test_random_order_is_a_function_of_seed_and_sample():
    first = random_order([3, 1, 2], seed=0)
    assert first[0] == random_order([3], seed=0)[0]
    assert (first != random_order([3, 1, 2], seed=1)).all()


@pytest.mark.parametrize("cap", [1, 3])
def test_accepted_never_exceed_the_cap(cap):
    found = made([], labels="aaaabbbb", cap=cap)
    for label in "ab":
        own = [d for d in found.decisions if d.label == label and d.rank is not None]
        assert sorted(d.rank for d in own) == list(range(cap))
