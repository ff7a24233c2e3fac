"""Histograms of a stream of numbers whose range is not known beforehand.

Bins are powers of two wide and double when a value lies outside; narrow bins nest in wide ones, so
the result is the same whatever the order and the size of the pieces. Memory is a few hundred bytes.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

NUM_BINS = 48
"""Bins on either side of zero."""


@dataclass(frozen=True)
class Histogram:
    """Counts of finite values in bins of equal width, lower edge excluded, upper included."""

    width: float
    """Width of a bin, a power of two."""
    counts: npt.NDArray[np.int64]
    """Counts ``(2 * NUM_BINS,)`` of values other than zero; see ``upper_edge``."""
    zeros: int
    """How many values are exactly zero."""

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum()) + self.zeros

    def upper_edge(self, number: int) -> float:
        """Upper edge of bin ``number``; bin ``NUM_BINS`` is the first above zero."""
        return (number - NUM_BINS + 1) * self.width


@dataclass
class HistogramStream:
    """Counts values that come in pieces."""

    _exponent: int | None = None
    _counts: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(2 * NUM_BINS, dtype=np.int64)
    )
    _zeros: int = 0

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Counts ``values``; those that are not finite are left out."""
        self._zeros += int((values == 0).sum())
        values = values[np.isfinite(values) & (values != 0)]
        if len(values):
            exponent = self._widened(_least_exponent(values))
            bins = np.ceil(np.ldexp(values, -exponent)).astype(np.int64) - 1 + NUM_BINS
            self._counts += np.bincount(bins, minlength=2 * NUM_BINS)

    def histogram(self) -> Histogram:
        """What was counted so far."""
        width = 1.0 if self._exponent is None else math.ldexp(1.0, self._exponent)
        return Histogram(width, self._counts.copy(), self._zeros)

    def _widened(self, wanted: int) -> int:
        """Makes bins at least ``2**wanted`` wide, and returns the exponent of their width."""
        if self._exponent is None:
            self._exponent = wanted
        while self._exponent < wanted:
            self._counts = _paired(self._counts)
            self._exponent += 1
        return self._exponent


def histogram_of(values: npt.NDArray[np.float64]) -> Histogram:
    """Histogram of values that are all there."""
    stream = HistogramStream()
    stream.add(values)
    return stream.histogram()


def _least_exponent(values: npt.NDArray[np.float64]) -> int:
    """The least ``e`` so that all values are in ``(-NUM_BINS * 2**e, NUM_BINS * 2**e]``."""
    largest = max(float(values.max()), math.nextafter(-float(values.min()), math.inf))
    exponent = math.frexp(largest / NUM_BINS)[1]
    return exponent - 1 if math.ldexp(NUM_BINS, exponent - 1) >= largest else exponent


def _paired(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The same counts in bins of twice the width."""
    result = np.zeros_like(counts)
    result[NUM_BINS // 2 : NUM_BINS // 2 + NUM_BINS] = counts.reshape(-1, 2).sum(axis=1)
    return result
