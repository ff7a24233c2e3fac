"""Which samples there are: their classes, shards and noise, as pure functions.

Sample ``i`` is of class ``i mod K``, so that a larger request begins with the smaller one. Its
noise comes from ``(seed, i)``: neither the batch nor the shard nor a restart changes a sample.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from histodiff.runtime import generator_for


def num_shards(num_samples: int, *, shard_size: int) -> int:
    """Number of shards that hold all samples."""
    return -(-num_samples // shard_size)


def shard_samples(number: int, *, num_samples: int, shard_size: int) -> range:
    """Global indices of the samples in shard ``number``."""
    return range(number * shard_size, min((number + 1) * shard_size, num_samples))


def batches_of(samples: range, batch: int) -> list[range]:
    """The samples of a shard as they are drawn together, ``batch`` at most."""
    return [samples[start : start + batch] for start in range(0, len(samples), batch)]


def class_of(sample: int, *, num_classes: int) -> int:
    """Class number that sample is asked for."""
    return sample % num_classes


def start_noise(samples: Sequence[int], *, shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise that each sample starts from, float32 ``(B, *shape)``."""
    return _normal(samples, shape=shape, seed=seed, purpose="start", step=0)


def step_noise(
    samples: Sequence[int], *, shape: tuple[int, ...], seed: int, device: str
) -> Callable[[int], Tensor]:
    """Standard normal noise of every sample in a step of a stochastic sampler."""

    def noise(step: int) -> Tensor:
        return _normal(samples, shape=shape, seed=seed, purpose="step", step=step).to(device)

    return noise


def _normal(
    samples: Sequence[int], *, shape: tuple[int, ...], seed: int, purpose: str, step: int
) -> Tensor:
    drawn = [
        generator_for(seed, "synthesize", purpose, sample, step).standard_normal(shape, np.float32)
        for sample in samples
    ]
    return torch.from_numpy(np.stack(drawn))
