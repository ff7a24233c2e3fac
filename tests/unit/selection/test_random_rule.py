"""The random rule takes the asked counts, by seed alone."""

from collections import Counter

from histodiff.selection.random import random_decisions

SAMPLES = list(range(40))
LABELS = ["ab"[sample % 2] for sample in SAMPLES]


def accepted(decisions):
    return {decision.sample for decision in decisions if decision.rank is not None}


def test_random_decisions_take_the_asked_count_of_each_class():
    decisions = random_decisions(SAMPLES, LABELS, counts={"a": 3, "b": 7}, seed=0)
    assert Counter(d.label for d in decisions if d.rank is not None) == {"a": 3, "b": 7}
    assert sorted(d.sample for d in decisions) == SAMPLES
    ranks = sorted(d.rank for d in decisions if d.label == "b" and d.rank is not None)
    assert ranks == list(range(7))


def test_random_decisions_other_seed_draws_others():
    first = accepted(random_decisions(SAMPLES, LABELS, counts={"a": 5, "b": 5}, seed=0))
    assert first == accepted(random_decisions(SAMPLES, LABELS, counts={"a": 5, "b": 5}, seed=0))
    assert first != accepted(random_decisions(SAMPLES, LABELS, counts={"a": 5, "b": 5}, seed=1))


def test_random_decisions_do_not_depend_on_the_order_of_samples():
    turned = random_decisions(SAMPLES[::-1], LABELS[::-1], counts={"a": 5}, seed=0)
    assert accepted(turned) == accepted(random_decisions(SAMPLES, LABELS, counts={"a": 5}, seed=0))


def test_random_decisions_class_without_a_count_is_rejected():
    assert not accepted(random_decisions(SAMPLES, LABELS, counts={}, seed=0))
