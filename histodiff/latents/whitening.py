"""Whitening: per-channel mean and standard deviation of the latents that a denoiser is trained on.

It belongs to the denoiser, is computed once from its pre-training mixture, and is applied by every
later reader. Shapes: latents are ``(B, C, h, w)``, NumPy or torch.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from histodiff.errors import ArtifactError
from histodiff.latents.store import LatentStore

if TYPE_CHECKING:  # readers of pixels import this package, and stay small without torch
    import torch

_BLOCK_BYTES = 16 * 2**20

LatentsT = TypeVar("LatentsT", npt.NDArray[np.floating], "torch.Tensor")


@dataclass(frozen=True)
class Whitening:
    """Per-channel mean and standard deviation of raw latents."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, latents_BCHW: LatentsT) -> LatentsT:
        """Raw latents -> zero mean, unit variance per channel."""
        mean, std = self._like(latents_BCHW)
        whitened: LatentsT = (latents_BCHW - mean) / std
        return whitened

    def invert(self, latents_BCHW: LatentsT) -> LatentsT:
        """Whitened latents -> raw latents."""
        mean, std = self._like(latents_BCHW)
        raw: LatentsT = latents_BCHW * std + mean
        return raw

    def to_json(self) -> str:
        """One JSON object with ``mean`` and ``std``."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Whitening":
        """What ``to_json`` wrote."""
        values = json.loads(text)
        return cls(tuple(values["mean"]), tuple(values["std"]))

    def _like(self, latents: LatentsT) -> tuple[LatentsT, LatentsT]:
        if isinstance(latents, np.ndarray):
            mean = np.asarray(self.mean, latents.dtype).reshape(1, -1, 1, 1)
            return mean, np.asarray(self.std, latents.dtype).reshape(1, -1, 1, 1)
        mean = latents.new_tensor(self.mean).view(1, -1, 1, 1)
        return mean, latents.new_tensor(self.std).view(1, -1, 1, 1)


@dataclass(frozen=True)
class _Moments:
    """Weight, mean and variance per channel, mergeable without cancellation."""

    weight: float
    mean: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]

    def merged(self, other: "_Moments") -> "_Moments":
        # Chan, Golub and LeVeque 1983, Eq. 2.1, for weights instead of counts
        weight = self.weight + other.weight
        share = other.weight / weight
        delta = other.mean - self.mean
        variance = self.variance + share * (other.variance - self.variance)
        variance += share * (1 - share) * delta**2
        return _Moments(weight, self.mean + share * delta, variance)


def mixture_whitening(
    stores: Sequence[LatentStore], weights: Sequence[float], *, split: str = "train"
) -> Whitening:
    """Whitening of draws from the posteriors of a mixture of stores.

    The variance of ``z = mean + std * noise`` is the variance of the means plus the mean of the
    posterior variances; rows of a store count equally, stores by their weight.

    Raises:
        ArtifactError: A store has no rows in the split, or a channel does not vary.
    """
    total: _Moments | None = None
    for store, weight in zip(stores, weights, strict=True):
        own = _store_moments(store, split)
        scaled = _Moments(weight, own.mean, own.variance)
        total = scaled if total is None else total.merged(scaled)
    if total is None:
        raise ArtifactError("no latent store is given; name at least one")
    std = np.sqrt(total.variance)
    if not (std > 0).all():
        channel = int(np.flatnonzero(~(std > 0))[0])
        raise ArtifactError(f"latent channel {channel} is constant; check the autoencoder")
    return Whitening(tuple(total.mean.tolist()), tuple(std.tolist()))


def _store_moments(store: LatentStore, split: str) -> _Moments:
    rows = store.rows_of_split(split)
    if not len(rows):
        raise ArtifactError(f"{store.path}: has no valid rows in split '{split}'")
    block = max(1, _BLOCK_BYTES // store.layout.row_bytes)
    total: _Moments | None = None
    for start in range(0, len(rows), block):
        part = _block_moments(store.read_rows(rows[start : start + block]))
        total = part if total is None else total.merged(part)
    assert total is not None
    return total


def _block_moments(moments_BMHW: npt.NDArray[np.float16]) -> _Moments:
    values = moments_BMHW.astype(np.float64)
    channels = values.shape[1] // 2
    mean_BCHW, std_BCHW = values[:, :channels], values[:, channels:]
    variance = mean_BCHW.var(axis=(0, 2, 3)) + (std_BCHW**2).mean(axis=(0, 2, 3))
    return _Moments(float(len(values)), mean_BCHW.mean(axis=(0, 2, 3)), variance)
