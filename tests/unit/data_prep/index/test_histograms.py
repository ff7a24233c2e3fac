import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from histodiff.data_prep.index.histograms import NUM_BINS, HistogramStream, histogram_of

numbers = st.lists(
    st.one_of(
        st.floats(-1e12, 1e12, allow_subnormal=False),
        st.sampled_from([0.0, 1.0, -1.0, 0.5, 48.0, -48.0, 96.0, np.nan, np.inf]),
    ),
    max_size=60,
)


def finite(values):
    return [value for value in values if np.isfinite(value)]


@given(numbers)
def test_histogram_counts_are_those_of_a_plain_loop(values):
    found = histogram_of(np.array(values, dtype=float))
    expected = np.zeros(2 * NUM_BINS, int)
    for value in finite(values):
        for number in range(2 * NUM_BINS):
            upper = found.upper_edge(number)
            expected[number] += value != 0 and upper - found.width < value <= upper
    np.testing.assert_array_equal(found.counts, expected)
    assert found.zeros == finite(values).count(0)
    assert found.total == len(finite(values))


@given(numbers, st.lists(st.integers(0, 60), max_size=5), st.randoms(use_true_random=False))
def test_histogram_is_the_same_for_every_order_and_cut(values, cuts, random):
    whole = histogram_of(np.array(values, dtype=float))
    shuffled = random.sample(values, len(values))
    stream = HistogramStream()
    for piece in np.split(
        np.array(shuffled, dtype=float), sorted(min(c, len(values)) for c in cuts)
    ):
        stream.add(piece)
    np.testing.assert_array_equal(stream.histogram().counts, whole.counts)
    assert (stream.histogram().width, stream.histogram().zeros) == (whole.width, whole.zeros)


@given(st.floats(1e-9, 1e9))
def test_histogram_bins_are_as_narrow_as_they_can_be(value):
    found = histogram_of(np.array([value]))
    assert NUM_BINS / 2 * found.width < value <= NUM_BINS * found.width
