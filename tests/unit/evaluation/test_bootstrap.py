"""The hierarchical bootstrap: exact cases, oracles, coverage, order; Holm; power."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from histodiff.evaluation.bootstrap import (
    Predictions,
    arm_effect,
    draws_needed,
    holm,
    paired_effect,
    replicated,
    unit_weights,
)
from histodiff.evaluation.bootstrap.effects import Components
from histodiff.evaluation.bootstrap.resampling import rescaled_weights
from histodiff.evaluation.metrics import Scored, expected_calibration_error, log_loss
from histodiff.evaluation.statistics import SCORE, Verdict


def predictions(probability_NK, target_N, unit_N):
    unit_N = tuple(unit_N)
    items = tuple(str(number) for number in range(len(target_N)))
    return Predictions(Scored(probability_NK, np.asarray(target_N), unit_N), unit_N, items)


def random_predictions(rng, *, units=6, per_unit=5, classes=3):
    count = units * per_unit
    probability = rng.dirichlet(np.ones(classes), count).round(2)  # rounded: ties for AUC
    target = rng.integers(0, classes, count)
    return predictions(probability, target, [f"p{n // per_unit}" for n in range(count)])


def of_decisions(right_N, target_N, unit_N):
    """Two classes, decided with certainty; right where ``right_N`` is."""
    said_N = np.where(right_N, target_N, 1 - target_N)
    return predictions(np.eye(2)[said_N], target_N, unit_N)


def weights_of(found, *, replicates=200, seed=0):
    strata = dict.fromkeys(found.unit_N, 0)
    return unit_weights(strata, replicates=replicates, rng=np.random.default_rng(seed))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 4))
def test_replicates_equal_scikit_learn_on_repeated_patches(seed, classes):
    rng = np.random.default_rng(seed)
    found = random_predictions(rng, classes=classes)
    units = sorted(set(found.unit_N))
    counts_RU = rng.integers(1, 4, (3, len(units))).astype(float)
    weights = weights_of(found)
    given_weights = type(weights)(weights.units, counts_RU, 5, ())
    values = replicated({0: found}, given_weights, positive=None)
    for replicate in range(3):
        times = counts_RU[replicate].astype(int)[[units.index(unit) for unit in found.unit_N]]
        target = np.repeat(found.scored.target_N, times)
        probability = np.repeat(found.scored.probability_NK, times, axis=0)
        said = probability.argmax(axis=1)
        assert values["balanced_accuracy"].values_RD[replicate, 0] == pytest.approx(
            sklearn_metrics.recall_score(
                target, said, average="macro", labels=np.unique(target), zero_division=0
            )
        )
        labels = range(classes)
        each = [
            sklearn_metrics.roc_auc_score(target == k, probability[:, k])
            for k in ((1,) if classes == 2 else labels)
            if 0 < (target == k).sum() < len(target)
        ]
        if len(each) in (1, classes):
            assert values["auc"].values_RD[replicate, 0] == pytest.approx(np.mean(each))
        repeated = Scored(probability, target, ())
        ones = np.ones((1, len(target)))
        assert values["ece"].values_RD[replicate, 0] == pytest.approx(
            expected_calibration_error(repeated, ones)[0]
        )
        assert values["log_loss"].values_RD[replicate, 0] == pytest.approx(
            log_loss(repeated, ones)[0]
        )


def test_auc_of_many_units_equals_that_of_pairs_of_units(monkeypatch):
    found = random_predictions(np.random.default_rng(1), units=20)
    weights = weights_of(found)
    by_pairs = replicated({0: found}, weights, positive=None, metrics=["auc"])["auc"]
    monkeypatch.setattr("histodiff.evaluation.bootstrap.replicates._MANY_UNITS", 5)
    by_patches = replicated({0: found}, weights, positive=None, metrics=["auc"])["auc"]
    np.testing.assert_allclose(by_pairs.values_RD, by_patches.values_RD)


@given(count=st.integers(2, 12))
def test_rescaled_weights_have_mean_and_variance_one(count):
    weights_RU = rescaled_weights(count, replicates=20_000, rng=np.random.default_rng(count))
    assert weights_RU.sum(axis=1) == pytest.approx(count)
    assert weights_RU.mean() == pytest.approx(1)
    assert weights_RU.var() == pytest.approx(1, abs=0.06)


def test_a_patient_alone_in_its_class_is_never_left_out():
    weights = unit_weights(
        {"a": 0, "b": 0, "c": 0, "d": 1}, replicates=50, rng=np.random.default_rng(0)
    )
    assert (weights.weights_RU[:, 3] == 1).all()
    assert (weights.alone, weights.degrees) == (("d",), 2)


def arms(rng, *, gain, draws=8, patients=20, per_patient=20, spreads=(0.0, 0.0, 0.0)):
    """Two arms with a known difference, and random effects of draw, patient and their meeting.

    The spreads are standard deviations of the difference in the chance to be right.
    """
    target_N = np.tile([0, 1], patients * per_patient // 2)
    unit_N = [f"p{number // per_patient}" for number in range(patients * per_patient)]
    of_draw, of_patient = rng.normal(0, spreads[0], draws), rng.normal(0, spreads[1], patients)
    control, treated = {}, {}
    for draw in range(draws):
        meeting = rng.normal(0, spreads[2], patients)
        change = np.repeat(gain + of_draw[draw] + of_patient + meeting, per_patient)
        uniform = rng.random(len(target_N))  # one for both arms: they agree on most patches
        control[draw] = of_decisions(uniform < 0.6, target_N, unit_N)
        treated[draw] = of_decisions(uniform < 0.6 + change, target_N, unit_N)
    return treated, control


def effect_of(treated, control, *, replicates=300, seed=0, metric="balanced_accuracy"):
    weights = weights_of(control[min(control)], replicates=replicates, seed=seed)
    one, other = (
        replicated(arm, weights, positive=None, metrics=[metric])[metric]
        for arm in (treated, control)
    )
    return paired_effect(one, other, seed=seed, bounds=SCORE)


@pytest.mark.parametrize("spreads", [(0.04, 0.06, 0.05), (0.0, 0.0, 0.08)])
def test_intervals_cover_the_true_difference(spreads):
    """Nominal 95 %; in 100 studies, fewer than 89 are 2.8 standard errors off."""
    rng = np.random.default_rng(7)
    covered, widths = 0, []
    for study in range(100):
        treated, control = arms(rng, gain=0.05, per_patient=10, spreads=spreads)
        found = effect_of(treated, control, replicates=100, seed=study)
        covered += found.low <= 0.05 <= found.high
        widths.append(found.high - found.low)
    assert covered >= 89
    # variances of draws, of patients, and of a cell: its own and what ten patches leave
    cell = spreads[2] ** 2 + 0.25 / 10
    error = math.sqrt(spreads[0] ** 2 / 8 + spreads[1] ** 2 / 20 + cell / 160)
    assert np.mean(widths) < 3 * 1.96 * error


def test_an_arm_against_itself_is_exactly_zero_and_not_testable():
    _, control = arms(np.random.default_rng(0), gain=0.0)
    found = effect_of(control, control)
    assert (found.value, found.p_value) == (0.0, None)
    assert "no spread" in found.untestable
    assert found.verdict(p_value=None, level=0.95) is Verdict.NOT_TESTABLE


def test_equal_draws_leave_the_interval_of_the_patients_mean():
    """With no spread over draws, the interval is the one of patients: that of their t test."""
    per_patient, patients = 4, 12
    rng = np.random.default_rng(3)
    target_N = np.tile([0, 1], patients * per_patient // 2)
    unit_N = [f"p{number // per_patient:02}" for number in range(len(target_N))]
    right_N = rng.random(len(target_N)) < 0.7
    right_N[0::2] = right_N[1::2]  # both classes alike: balanced accuracy is plain accuracy
    same = {draw: of_decisions(right_N, target_N, unit_N) for draw in range(4)}
    metric = "balanced_accuracy"
    weights = weights_of(same[0], replicates=20_000)
    arm = replicated(same, weights, positive=None, metrics=[metric])[metric]
    found = arm_effect(arm, seed=0)
    by_patient = right_N.reshape(patients, per_patient).mean(axis=1)
    error = by_patient.std(ddof=1) / math.sqrt(patients)
    assert found.components.draws == pytest.approx(0, abs=1e-20)
    half = stats.t.ppf(0.975, patients - 1) * error
    assert found.high - found.value == pytest.approx(half, rel=0.02)


def test_equal_patients_leave_the_t_test_of_the_draws():
    """With no spread over patients, interval and p are those of the paired t test over draws."""
    target_N = np.tile([0, 1], 100)
    unit_N = [f"p{number // 20}" for number in range(200)]
    shares = [0.70, 0.75, 0.85, 0.80, 0.65]
    pattern = np.tile(np.repeat(np.arange(10), 2), 10) / 10
    treated = {
        draw: of_decisions(pattern + 0.05 < share + 1e-9, target_N, unit_N)
        for draw, share in enumerate(shares)
    }
    control = {draw: of_decisions(pattern + 0.05 < 0.6, target_N, unit_N) for draw in range(5)}
    found = effect_of(treated, control, replicates=20_000)
    assert found.components.patients == pytest.approx(0, abs=1e-20)
    values = [(pattern + 0.05 < share + 1e-9).mean() - 0.6 for share in shares]
    expected = stats.ttest_1samp(values, 0)
    assert found.value == pytest.approx(np.mean(values))
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.1)
    assert found.low == pytest.approx(expected.confidence_interval(0.95).low, rel=0.05)


def test_effects_do_not_depend_on_the_order_of_draws_and_patches():
    treated, control = arms(np.random.default_rng(5), gain=0.05, spreads=(0.02, 0.02, 0.02))
    plain = effect_of(treated, control)
    order = np.random.default_rng(1).permutation(400)

    def shuffled(arm):
        return {
            draw: predictions(
                arm[draw].scored.probability_NK[order],
                arm[draw].scored.target_N[order],
                [arm[draw].unit_N[place] for place in order],
            )
            for draw in sorted(arm, reverse=True)
        }

    other = effect_of(shuffled(treated), shuffled(control))
    assert (other.value, other.low, other.high) == pytest.approx(
        (plain.value, plain.low, plain.high), abs=1e-12
    )


def test_pairing_is_narrower_than_arms_apart():
    treated, control = arms(np.random.default_rng(5), gain=0.05, spreads=(0.01, 0.01, 0.01))
    paired = effect_of(treated, control)
    apart = {draw + 100: found for draw, found in control.items()}
    assert effect_of(treated, apart) is None  # no draw in common
    alone = [arm_effect(
        replicated(arm, weights_of(control[0]), positive=None)["balanced_accuracy"], seed=0
    ) for arm in (treated, control)]  # fmt: skip
    width = math.hypot(*(found.high - found.value for found in alone))
    assert paired.high - paired.value < 0.7 * width


def test_draws_that_only_one_arm_has_are_left_out():
    treated, control = arms(np.random.default_rng(5), gain=0.05, spreads=(0.02, 0.02, 0.02))
    fewer = {draw: found for draw, found in control.items() if draw < 5}
    found = effect_of(treated, fewer)
    assert found.num_draws == 5
    same = effect_of({draw: treated[draw] for draw in range(5)}, fewer)
    assert (found.value, found.low) == (same.value, same.low)


def test_two_label_draws_have_no_interval():
    treated, control = arms(np.random.default_rng(0), gain=0.1, draws=2)
    found = effect_of(treated, control)
    assert (found.low, found.p_value) == (None, None)
    assert found.untestable.startswith("fewer than 3 label draws")


def test_a_metric_without_a_class_is_not_defined():
    target_N = np.zeros(20, int)
    unit_N = [f"p{number // 2}" for number in range(20)]
    only = {draw: of_decisions(np.ones(20, bool), target_N, unit_N) for draw in range(3)}
    arm = replicated(only, weights_of(only[0]), positive=None)
    assert arm_effect(arm["auc"], seed=0) is None


def test_holm_hand_computed():
    # sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, each at least the one before
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_counts_what_could_not_be_tested():
    assert holm([0.01, None, 0.02]) == [pytest.approx(0.03), None, pytest.approx(0.04)]


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=8), data=st.data())
def test_holm_follows_the_order_and_never_lowers(p_values, data):
    order = data.draw(st.permutations(range(len(p_values))))
    plain, other = holm(p_values), holm([p_values[place] for place in order])
    assert other == [plain[place] for place in order]
    assert all(adjusted >= p for adjusted, p in zip(plain, p_values, strict=True))


def test_draws_needed_hand_computed():
    # patients leave 0.01 of standard error; per draw the variance is 8 x 0.0004
    found = Components(0.0004, 0.0001, 0.0, num_draws=8, unit_degrees=10_000)
    needed = draws_needed(found, half_width=0.03)
    assert needed.least_half_width == pytest.approx(1.96 * 0.01, rel=1e-3)

    def half(num):
        total = 0.0001 + 0.0032 / num
        degrees = total**2 / (0.0001**2 / 10_000 + (0.0032 / num) ** 2 / (num - 1))
        return stats.t.ppf(0.975, degrees) * total**0.5

    assert needed.num > 8
    assert half(needed.num) <= 0.03 < half(needed.num - 1)


def test_no_number_of_draws_suffices_where_patients_alone_exceed_the_half_width():
    found = Components(0.0004, 0.0004, 0.0001, num_draws=8, unit_degrees=20)
    needed = draws_needed(found, half_width=0.02)
    assert needed.num is None
    assert needed.least_half_width == pytest.approx(stats.t.ppf(0.975, 20) * 0.0003**0.5)
