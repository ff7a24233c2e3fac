"""Statistics of latents per channel: taken shard by shard, merged without cancellation.

Those of a store are diagnostics: they lie in the ledger and in the manifest, and are no part of the
content digest. A merge goes in the order it is given, so that shards merged in their order give
the same bits for any number of workers.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from histodiff.config import Config

_MAGNITUDE, _INFINITY = np.uint16(0x7FFF), 0x7C00
_VALUES = np.nan_to_num(
    np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64), posinf=0.0, neginf=0.0
)
"""Value of every code of fp16; 0 for codes that are not finite, which do not occur."""


class ChannelStatistics(Config):
    """What ``rows`` rows of moments have in common; one number per latent channel."""

    rows: int
    """Rows counted: those that are finite."""
    mean_of_means: tuple[float, ...]
    """Mean of the posterior means."""
    variance_of_means: tuple[float, ...]
    """Variance of the posterior means (of the population)."""
    posterior_variance: tuple[float, ...]
    """Mean of the squared posterior standard deviations."""

    @property
    def posterior_share(self) -> tuple[float, ...]:
        """Share of the posterior's own variance in that of draws from it; 0 where none varies."""
        pairs = zip(self.posterior_variance, self.variance_of_means, strict=True)
        return tuple(own / (own + other) if own + other > 0 else 0.0 for own, other in pairs)


def channel_statistics(moments_BMHW: npt.NDArray[np.float16]) -> ChannelStatistics | None:
    """Statistics of the finite rows of ``(rows, 2C, h, w)``, in float64; None if there are none.

    fp16 has 65,536 values: they are counted, which is exact and quicker than converting them.
    """
    codes = moments_BMHW.view(np.uint16)
    finite = (codes & _MAGNITUDE).max(axis=(1, 2, 3)) < _INFINITY
    if not finite.any():
        return None
    places = (codes if finite.all() else codes[finite]).transpose(1, 0, 2, 3)
    counts = [np.bincount(channel.ravel(), minlength=len(_VALUES)) for channel in places]
    channels = len(counts) // 2
    means, variances = zip(*(_mean_and_variance(each) for each in counts[:channels]), strict=True)
    return ChannelStatistics(
        rows=int(finite.sum()),
        mean_of_means=means,
        variance_of_means=variances,
        posterior_variance=tuple(_mean_of(_VALUES**2, each) for each in counts[channels:]),
    )


def _mean_and_variance(counts: npt.NDArray[np.intp]) -> tuple[float, float]:
    mean = _mean_of(_VALUES, counts)
    return mean, _mean_of((_VALUES - mean) ** 2, counts)


def _mean_of(values: npt.NDArray[np.float64], counts: npt.NDArray[np.intp]) -> float:
    """Mean of values that occur ``counts`` times."""
    return float((counts * values).sum() / counts.sum())


def merged_statistics(parts: Iterable[ChannelStatistics]) -> ChannelStatistics | None:
    """Statistics of all rows of ``parts``, as if taken at once; None where there are no parts."""
    total: ChannelStatistics | None = None
    for part in parts:
        total = part if total is None else _merged(total, part)
    return total


def _merged(first: ChannelStatistics, second: ChannelStatistics) -> ChannelStatistics:
    rows = first.rows + second.rows
    mean, variance = merged_variance(
        np.asarray(first.mean_of_means),
        np.asarray(first.variance_of_means),
        other_mean=np.asarray(second.mean_of_means),
        other_variance=np.asarray(second.variance_of_means),
        share=second.rows / rows,
    )
    before = np.asarray(first.posterior_variance)
    own = before + second.rows / rows * (np.asarray(second.posterior_variance) - before)
    return ChannelStatistics(
        rows=rows,
        mean_of_means=tuple(mean.tolist()),
        variance_of_means=tuple(variance.tolist()),
        posterior_variance=tuple(own.tolist()),
    )


def merged_variance(
    mean: npt.NDArray[np.float64],
    variance: npt.NDArray[np.float64],
    *,
    other_mean: npt.NDArray[np.float64],
    other_variance: npt.NDArray[np.float64],
    share: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and variance of two groups together; the other one has ``share`` of the weight."""
    # Chan, Golub and LeVeque 1983, Eq. 2.1, for shares instead of counts
    delta = other_mean - mean
    together = variance + share * (other_variance - variance) + share * (1 - share) * delta**2
    return mean + share * delta, together
