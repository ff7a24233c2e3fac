"""Samples that vary labelled latents: which one each starts from, and from how much noise.

A clean latent of the wanted class is noised to a level and denoised from there (SDEdit, Meng et al.
2022). Below the levels at which a class is decided the label stays; the lower the level, the less
changes. Sample ``i`` is the ``j``-th of its class, ``j = i div K``: sources take turns in an order
drawn anew each round, and each takes the levels in turns. Legend: N sources, B batch, C
channels, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histodiff.runtime import generator_for
from histodiff.synthesis.plan import class_of


@dataclass(frozen=True)
class Variation:
    """Labelled latents in the denoiser's whitening, and the noise levels that samples start at."""

    mean_NCHW: npt.NDArray[np.float32]
    std_NCHW: npt.NDArray[np.float32]
    """Standard deviation of the posterior."""
    target_N: npt.NDArray[np.int64]
    """Number of the class; every class has a source."""
    patch_N: npt.NDArray[np.int64]
    """Number of the patch in its PatchIndex."""
    sigmas: tuple[float, ...]


@dataclass(frozen=True)
class Source:
    """What one sample starts from."""

    row: int
    """Place among the sources."""
    patch: int
    sigma: float


def source_of(variation: Variation, sample: int, *, num_classes: int, seed: int) -> Source:
    """What a sample starts from, a function of its number and the seed."""
    label, turn = class_of(sample, num_classes=num_classes), sample // num_classes
    of_class = np.flatnonzero(variation.target_N == label)
    around, place = divmod(turn, len(of_class))
    order = generator_for(seed, "variation", label, around).permutation(of_class)
    row = int(order[place])
    sigma = variation.sigmas[(row + around) % len(variation.sigmas)]
    return Source(row, int(variation.patch_N[row]), sigma)


def clean_latents(
    variation: Variation, sources: Sequence[Source], samples: Sequence[int], *, seed: int
) -> Tensor:
    """Posterior draws of the sources, float32 ``(B, C, H, W)``."""
    drawn = [
        variation.mean_NCHW[source.row]
        + variation.std_NCHW[source.row]
        * generator_for(seed, "variation", "posterior", sample).standard_normal(
            variation.std_NCHW.shape[1:], np.float32
        )
        for source, sample in zip(sources, samples, strict=True)
    ]
    return torch.from_numpy(np.stack(drawn))
