"""Whitening: mean and scale of every channel of the latents that a denoiser is trained on.

It belongs to the denoiser, is computed once from its pre-training mixture (or published with its
autoencoder), and is applied by every later reader. Shapes: latents are ``(B, C, h, w)``, NumPy or
torch.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from histodiff.errors import ArtifactError
from histodiff.latents.statistics import (
    ChannelStatistics,
    channel_statistics,
    merged_statistics,
    merged_variance,
)
from histodiff.latents.store import LatentStore

if TYPE_CHECKING:  # readers of pixels import this package, and stay small without torch
    import torch

_SLAB_BYTES = 8 * 2**20
_READ_THREADS = 4

View = Literal["sample", "mean"]
"""What training sees of a posterior: a draw from it, or its mean."""

LatentsT = TypeVar("LatentsT", npt.NDArray[np.floating], "torch.Tensor")


@dataclass(frozen=True)
class Whitening:
    """Mean and scale of every channel of raw latents."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def apply(self, latents_BCHW: LatentsT) -> LatentsT:
        """Raw latents -> zero mean, and a variance that is 1 in the mean over channels."""
        mean, scale = self._like(latents_BCHW)
        whitened: LatentsT = (latents_BCHW - mean) / scale
        return whitened

    def invert(self, latents_BCHW: LatentsT) -> LatentsT:
        """Whitened latents -> raw latents."""
        mean, scale = self._like(latents_BCHW)
        raw: LatentsT = latents_BCHW * scale + mean
        return raw

    def to_json(self) -> str:
        """One JSON object with ``mean`` and ``scale``."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Whitening":
        """What ``to_json`` wrote; before scales had rules they were called ``std``."""
        values = json.loads(text)
        scale = values["scale"] if "scale" in values else values["std"]
        return cls(tuple(values["mean"]), tuple(scale))

    def _like(self, latents: LatentsT) -> tuple[LatentsT, LatentsT]:
        if isinstance(latents, np.ndarray):
            mean = np.asarray(self.mean, latents.dtype).reshape(1, -1, 1, 1)
            return mean, np.asarray(self.scale, latents.dtype).reshape(1, -1, 1, 1)
        mean = latents.new_tensor(self.mean).view(1, -1, 1, 1)
        return mean, latents.new_tensor(self.scale).view(1, -1, 1, 1)


def mixture_whitening(
    stores: Sequence[LatentStore],
    weights: Sequence[float],
    *,
    split: str = "train",
    view: View = "sample",
    power: float = 1.0,
    recorded: Sequence[ChannelStatistics | None] | None = None,
) -> Whitening:
    """Whitening of what a training sees of a mixture of stores.

    The scale of a channel is ``k * std ** power``, where k makes the variance of whitened latents 1
    in the mean over channels.

    The variance of ``z = mean + std * noise`` is the variance of the means plus the mean of the
    posterior variances; of the view ``mean`` it is the former alone. Rows of a store count equally,
    stores by their weight. Each store is read once, slab by slab.

    Args:
        stores: The stores of the mixture.
        weights: Their weights.
        split: Whose rows count.
        view: What the training sees of the posterior.
        power: Power of the standard deviation; 1 gives every channel unit variance.
        recorded: Statistics of all valid rows of every store, where known; a store is not read
            if all of them are in the split.

    Raises:
        ArtifactError: A store has no rows in the split, or a channel does not vary.
    """
    known = recorded or [None] * len(stores)
    mean: npt.NDArray[np.float64] | None = None
    variance = np.zeros(0)
    weight_so_far = 0.0
    for store, weight, facts in zip(stores, weights, known, strict=True):
        own_mean, own_variance = _mean_and_variance(store, split, view, facts)
        weight_so_far += weight
        if mean is None:
            mean, variance = own_mean, own_variance
            continue
        mean, variance = merged_variance(
            mean,
            variance,
            other_mean=own_mean,
            other_variance=own_variance,
            share=weight / weight_so_far,
        )
    if mean is None:
        raise ArtifactError("no latent store is given; name at least one")
    std = np.sqrt(variance)
    if not (std > 0).all():
        channel = int(np.flatnonzero(~(std > 0))[0])
        raise ArtifactError(f"latent channel {channel} is constant; check the autoencoder")
    # the whitened variance of a channel is (std / scale)^2 = std^(2 - 2 power) / k^2
    factor = np.sqrt(np.mean(std ** (2 - 2 * power)))
    return Whitening(tuple(mean.tolist()), tuple((factor * std**power).tolist()))


def split_statistics(store: LatentStore, split: str) -> ChannelStatistics:
    """Statistics of the valid rows of a split, in one pass over the store.

    Slabs are read by a few threads and merged in their order; slabs without a row are left out.

    Raises:
        ArtifactError: The store has no valid rows in the split.
    """
    chosen = np.zeros(store.num_rows, bool)
    chosen[store.rows_of_split(split)] = True
    layout = store.layout
    chunk_bytes = layout.rows_per_chunk * layout.row_bytes
    size = max(1, _SLAB_BYTES // chunk_bytes) * layout.rows_per_chunk
    starts = [k for k in range(0, store.num_rows, size) if chosen[k : k + size].any()]
    if not starts:
        raise ArtifactError(f"{store.path}: has no valid rows in split '{split}'")

    def of_slab(start: int) -> ChannelStatistics:
        mask = chosen[start : start + size]
        found = channel_statistics(store.read(start, start + len(mask))[mask])
        assert found is not None
        return found

    with ThreadPoolExecutor(_READ_THREADS) as threads:
        merged = merged_statistics(_in_order(threads, of_slab, starts))
    assert merged is not None
    return merged


def _in_order(
    threads: ThreadPoolExecutor, work: Callable[[int], ChannelStatistics], starts: Sequence[int]
) -> Iterator[ChannelStatistics]:
    """Results in the order of ``starts``, with a bounded number of slabs in memory."""
    ahead: deque[Future[ChannelStatistics]] = deque()
    for start in starts:
        if len(ahead) == 2 * _READ_THREADS:
            yield ahead.popleft().result()
        ahead.append(threads.submit(work, start))
    while ahead:
        yield ahead.popleft().result()


def _mean_and_variance(
    store: LatentStore, split: str, view: View, recorded: ChannelStatistics | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    complete = recorded is not None and recorded.rows == len(store.rows_of_split(split))
    found = recorded if recorded and complete else split_statistics(store, split)
    variance = np.asarray(found.variance_of_means)
    if view == "sample":
        variance = variance + np.asarray(found.posterior_variance)
    return np.asarray(found.mean_of_means), variance
