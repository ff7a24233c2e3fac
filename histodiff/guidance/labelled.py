"""Labelled latents in memory, in the denoiser's whitening, and noisy draws from them.

Every draw is a function of ``(seed, purpose, index)``: which row, the posterior draw, the noise
level, the noise. Legend of suffixes: N rows, B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histodiff.guidance.noise import log_uniform
from histodiff.latents import LatentStore, View, Whitening
from histodiff.runtime import generator_for
from histodiff.runtime.symmetries import ChannelSymmetries, square_symmetry

Floats = npt.NDArray[np.float32]
NO_LABEL = -1
"""Class number of a latent whose label was not looked at."""


@dataclass(frozen=True)
class RawSymmetries:
    """Symmetries that move channels, for latents that are whitened already.

    Channels change places and sign before they are whitened: mean and scale are those of a place.
    """

    channels: ChannelSymmetries
    whitening: Whitening

    def turned(self, whitened_CHW: Floats, which: int) -> Floats:
        """What whitening makes of the raw latent under symmetry ``which``."""
        raw_1CHW = self.whitening.invert(whitened_CHW[None])
        moved_CHW = square_symmetry(raw_1CHW[0], which, channels=self.channels)
        return np.asarray(self.whitening.apply(moved_CHW[None])[0], np.float32)


@dataclass(frozen=True)
class LabelledLatents:
    """Whitened posterior moments ``(N, C, H, W)`` with class numbers ``(N,)``."""

    mean_NCHW: Floats
    std_NCHW: Floats
    target_N: npt.NDArray[np.int64]
    patch_N: npt.NDArray[np.int64]
    """Number of the patch in its PatchIndex."""
    group_N: tuple[str, ...]
    """Patient, or slide where no patient is known."""
    symmetries: RawSymmetries | None = None
    """What turning the tissue does to channels; None leaves them as they are."""

    def __len__(self) -> int:
        return len(self.target_N)

    def part(self, rows: npt.NDArray[np.integer]) -> "LabelledLatents":
        """The latents of these rows."""
        return replace(
            self,
            mean_NCHW=self.mean_NCHW[rows],
            std_NCHW=self.std_NCHW[rows],
            target_N=self.target_N[rows],
            patch_N=self.patch_N[rows],
            group_N=tuple(self.group_N[row] for row in rows),
        )

    def turned(self, latent_CHW: Floats, which: int) -> Floats:
        """A whitened latent under symmetry ``which`` of the square."""
        if self.symmetries is None:
            return square_symmetry(latent_CHW, which)
        return self.symmetries.turned(latent_CHW, which)


@dataclass(frozen=True)
class NoisyBatch:
    """Noisy latents as the guide meets them while sampling."""

    noisy_BCHW: Tensor
    sigma_B: Tensor
    target_B: Tensor
    clean_BCHW: Tensor
    """Without the noise."""


def read_labelled(
    store: LatentStore,
    rows: npt.NDArray[np.int64],
    *,
    whitening: Whitening,
    classes: Sequence[str] | None,
    view: View = "sample",
) -> LabelledLatents:
    """The given rows of the store, whitened.

    Without ``classes`` no label is looked at, and ``target_N`` is ``NO_LABEL``. Rows that were
    quarantined are left out. Rows are ordered by patch number. Of the view ``mean``
    the standard deviation of the posterior is zero, so that draws are the mean.
    """
    valid = np.intersect1d(rows, store.valid_rows)
    ordered = valid[np.argsort(np.asarray(store.rows["patch"])[valid], kind="stable")]
    moments = store.read_rows(ordered).astype(np.float32)
    channels = store.latent_channels
    std_NCHW = moments[:, channels:] / np.asarray(whitening.scale, np.float32).reshape(1, -1, 1, 1)
    moved = store.layout.attributes.symmetries
    return LabelledLatents(
        mean_NCHW=np.asarray(whitening.apply(moments[:, :channels]), np.float32),
        std_NCHW=std_NCHW if view == "sample" else np.zeros_like(std_NCHW),
        target_N=_targets(store, ordered, classes),
        patch_N=np.asarray(store.rows["patch"], np.int64)[ordered],
        group_N=tuple(
            f"patient {patient}" if patient else f"slide {slide}"
            for patient, slide in zip(
                store.rows["patient_id"].take(ordered).to_pylist(),
                store.rows["slide_id"].take(ordered).to_pylist(),
                strict=True,
            )
        ),
        symmetries=None if moved is None else RawSymmetries(moved, whitening),
    )


def joined(first: LabelledLatents, second: LabelledLatents) -> LabelledLatents:
    """The latents of both, those of ``first`` before those of ``second``, of one encoder."""
    return LabelledLatents(
        np.concatenate([first.mean_NCHW, second.mean_NCHW]),
        np.concatenate([first.std_NCHW, second.std_NCHW]),
        np.concatenate([first.target_N, second.target_N]),
        np.concatenate([first.patch_N, second.patch_N]),
        first.group_N + second.group_N,
        first.symmetries,
    )


def _targets(
    store: LatentStore, rows: npt.NDArray[np.int64], classes: Sequence[str] | None
) -> npt.NDArray[np.int64]:
    if classes is None:
        return np.full(len(rows), NO_LABEL, np.int64)
    labels = store.rows["label"].take(rows).to_pylist()
    return np.array([classes.index(label) for label in labels], np.int64)


def drawn_row(target_N: npt.NDArray[np.int64], *, seed: int, index: int, balanced: bool) -> int:
    """The row that global sample ``index`` takes."""
    rng = generator_for(seed, "guide-row", index)
    if not balanced:
        return int(rng.integers(len(target_N)))
    members = np.flatnonzero(target_N == rng.choice(np.unique(target_N)))
    return int(members[rng.integers(len(members))])


def noisy_batch(
    latents: LabelledLatents,
    rows: Sequence[int],
    *,
    sigma_of: Callable[[Tensor], Tensor],
    seed: int,
    purpose: str,
    indices: Sequence[int],
    symmetries: bool = False,
    device: str = "cpu",
) -> NoisyBatch:
    """Noisy posterior draws of ``rows``: ``x = mean + std e + sigma n``.

    Args:
        latents: Where from.
        rows: One row per sample.
        sigma_of: Noise levels from uniform numbers, both of shape (B,).
        seed: Seed of every draw, with ``purpose`` and the sample's entry of ``indices``.
        purpose: Keeps draws for training apart from draws for evaluation.
        indices: Global index of every sample.
        symmetries: Whether a random one of the eight symmetries of the square is applied.
        device: Where the batch is put.
    """
    clean, noise, uniform = [], [], []
    for row, index in zip(rows, indices, strict=True):
        rng = generator_for(seed, purpose, index)
        uniform.append(rng.random())
        shape = latents.mean_NCHW.shape[1:]
        draw = latents.mean_NCHW[row] + latents.std_NCHW[row] * rng.standard_normal(
            shape, np.float32
        )
        if symmetries:
            draw = latents.turned(draw, int(rng.integers(8)))
        clean.append(draw)
        noise.append(rng.standard_normal(shape, np.float32))
    sigma_B = sigma_of(torch.tensor(uniform, dtype=torch.float64))
    clean_BCHW, noise_BCHW = torch.from_numpy(np.stack(clean)), torch.from_numpy(np.stack(noise))
    return NoisyBatch(
        (clean_BCHW + sigma_B.reshape(-1, 1, 1, 1) * noise_BCHW).to(device),
        sigma_B.to(device),
        torch.from_numpy(latents.target_N[np.asarray(rows, np.int64)]).to(device),
        clean_BCHW.to(device),
    )


def bin_sigma(low: float, high: float) -> Callable[[Tensor], Tensor]:
    """Noise levels log-uniform in one bin, as a function of uniform numbers."""

    def sigma_of(u_B: Tensor) -> Tensor:
        return log_uniform(u_B, low=low, high=high)

    return sigma_of
