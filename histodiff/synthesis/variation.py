"""Samples that vary labelled latents: which one each starts from, and from how much noise.

A clean latent of the wanted class is noised to a level and denoised from there (SDEdit, Meng et al.
2022). Below the levels at which a class is decided the label stays; the lower the level, the less
changes. Sample ``i`` is the ``j``-th of its class, ``j = i div K``: sources take turns in an order
drawn anew each round, and each takes the levels in turns. A source may be given the stain of
another slide first (``stains``). Legend: N sources, B batch, C channels, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histodiff.runtime import generator_for
from histodiff.synthesis.plan import class_of
from histodiff.synthesis.stains import Stains, donor_of, stained


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
    stains: Stains | None = None
    """Stains of other slides that sources are given; None leaves them their own."""


@dataclass(frozen=True)
class Source:
    """What one sample starts from."""

    row: int
    """Place among the sources."""
    patch: int
    sigma: float
    donor: int | None
    """Place, among the slides of ``stains``, of the one that gives its stain; None gives none."""


def source_of(variation: Variation, sample: int, *, num_classes: int, seed: int) -> Source:
    """What a sample starts from, a function of its number and the seed."""
    label, turn = class_of(sample, num_classes=num_classes), sample // num_classes
    of_class = np.flatnonzero(variation.target_N == label)
    around, place = divmod(turn, len(of_class))
    order = generator_for(seed, "variation", label, around).permutation(of_class)
    row = int(order[place])
    sigma = variation.sigmas[(row + around) % len(variation.sigmas)]
    donor = None
    if variation.stains is not None:
        donor = donor_of(variation.stains, sample, source=row, seed=seed)
    return Source(row, int(variation.patch_N[row]), sigma, donor)


def clean_latents(
    variation: Variation, sources: Sequence[Source], samples: Sequence[int], *, seed: int
) -> Tensor:
    """Posterior draws of the sources in their stains, float32 ``(B, C, H, W)``."""
    drawn = [
        _clean_latent(variation, source, sample, seed=seed)
        for source, sample in zip(sources, samples, strict=True)
    ]
    return torch.from_numpy(np.stack(drawn))


def _clean_latent(
    variation: Variation, source: Source, sample: int, *, seed: int
) -> npt.NDArray[np.float32]:
    std_CHW = variation.std_NCHW[source.row]
    noise_CHW = generator_for(seed, "variation", "posterior", sample).standard_normal(
        std_CHW.shape, np.float32
    )
    drawn_CHW: npt.NDArray[np.float32] = variation.mean_NCHW[source.row] + std_CHW * noise_CHW
    if variation.stains is None or source.donor is None:
        return drawn_CHW
    return stained(drawn_CHW, variation.stains, source=source.row, donor=source.donor)
