"""Random draws of training: a pure function of the seed and the global sample index.

World size, micro-batch and restarts therefore change nothing. They are drawn on the CPU with
NumPy's Philox generator, so every device sees the same numbers. Legend: B batch, C channels,
H height, W width, M = 2C moments.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from histodiff.latents import View, Whitening
from histodiff.runtime import generator_for
from histodiff.runtime.symmetries import GROUPS, ChannelSymmetries, Symmetries, turned_moments


class CleanAndNoise(NamedTuple):
    """Samples to be noised: ``x = clean + sigma * noise``, sigma by the quantile ``uniform``."""

    clean_BCHW: torch.Tensor
    """Whitened draws from the posteriors, or their means, fp32."""
    noise_BCHW: torch.Tensor
    """Standard normal, fp32."""
    uniform_B: torch.Tensor
    """Uniform in [0, 1), fp64."""
    conditioned_B: torch.Tensor
    """Whether the network is shown an estimate of the sample, bool."""


def posterior_draws(
    moments_BMHW: npt.NDArray[np.float16],
    indices: Sequence[int] | npt.NDArray[np.int64],
    *,
    whitening: Whitening,
    seed: int,
    purpose: str,
    view: View,
    symmetries: Symmetries = "none",
    channels: ChannelSymmetries | None = None,
    self_conditioning: float = 0.0,
) -> CleanAndNoise:
    """The draws that belong to ``indices``.

    Noise and noise level of a sample are the same for every view and every group of symmetries.

    Args:
        moments_BMHW: Posterior mean, then standard deviation, raw.
        indices: One number per sample; with seed and purpose it decides the sample's draws.
        whitening: Applied to the posterior draw.
        seed: Seed of the run.
        purpose: Keeps the draws of different uses apart.
        view: What is seen of the posterior.
        symmetries: Group of which every sample gets a random member, before the posterior draw.
        channels: What its members do to channels.
        self_conditioning: Share of the samples of which the network is shown an estimate.
    """
    group = GROUPS[symmetries]
    turned_BMHW = _turned(moments_BMHW, indices, group, channels, seed=seed, purpose=purpose)
    moments = turned_BMHW.astype(np.float32)
    mean_BCHW, std_BCHW = np.split(moments, 2, axis=1)
    posterior_BCHW = np.empty_like(mean_BCHW)
    noise_BCHW = np.empty_like(mean_BCHW)
    uniform_B = np.empty(len(moments))
    for place, index in enumerate(indices):
        generator = generator_for(seed, purpose, int(index))
        uniform_B[place] = generator.random()
        generator.standard_normal(dtype=np.float32, out=posterior_BCHW[place])
        generator.standard_normal(dtype=np.float32, out=noise_BCHW[place])
    drawn_BCHW = mean_BCHW + std_BCHW * posterior_BCHW if view == "sample" else mean_BCHW
    clean_BCHW = whitening.apply(drawn_BCHW)
    conditioned_B = [
        self_conditioning > 0
        and generator_for(seed, purpose, int(index), "conditioning").random() < self_conditioning
        for index in indices
    ]
    return CleanAndNoise(
        torch.from_numpy(clean_BCHW),
        torch.from_numpy(noise_BCHW),
        torch.from_numpy(uniform_B),
        torch.tensor(conditioned_B),
    )


def _turned(
    moments_BMHW: npt.NDArray[np.float16],
    indices: Sequence[int] | npt.NDArray[np.int64],
    group: Sequence[int],
    channels: ChannelSymmetries | None,
    *,
    seed: int,
    purpose: str,
) -> npt.NDArray[np.float16]:
    """Every sample under a member of the group that its index decides."""
    if len(group) == 1:
        return moments_BMHW
    turned = np.empty_like(moments_BMHW)
    for place, index in enumerate(indices):
        which = int(generator_for(seed, purpose, int(index), "symmetry").integers(len(group)))
        turned[place] = turned_moments(moments_BMHW[place], group[which], channels=channels)
    return turned
