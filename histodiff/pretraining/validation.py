"""Validation loss by noise level, on fixed rows with fixed noise.

Rows come from the split ``val``, which shares no slide or patient with ``train``. Noise belongs to
the row's number, not to the step: two points of a curve differ by the weights alone. Every rank
takes each world-size-th row; the sums are added up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed

from histodiff.diffusion import Preconditioning
from histodiff.errors import ConfigError
from histodiff.latents import LatentStore, View, Whitening
from histodiff.pretraining.posterior import CleanAndNoise, posterior_draws
from histodiff.pretraining.spec import ValidationConfig


@dataclass(frozen=True)
class BinLoss:
    """Mean loss at one noise level."""

    sigma: float
    loss: float
    images: int


def validation_moments(stores: Sequence[LatentStore], *, images: int) -> npt.NDArray[np.float16]:
    """Moments of at most ``images`` rows, evenly spaced over the validation rows of all stores.

    Raises:
        ConfigError: No store has a validation row.
    """
    rows = [store.rows_of_split("val") for store in stores]
    ends = np.cumsum([len(of_store) for of_store in rows])
    if not len(ends) or not ends[-1]:
        raise ConfigError(
            "validation: no store has rows in split 'val'; set validation=null, or tile with a"
            " share of slides for validation"
        )
    spaced = np.linspace(0, ends[-1] - 1, min(images, int(ends[-1]))).round().astype(int)
    parts = np.split(spaced, np.searchsorted(spaced, ends[:-1]))
    begins = ends - [len(of_store) for of_store in rows]
    return np.concatenate(
        [
            store.read_rows(of_store[part - begin])
            for store, of_store, part, begin in zip(stores, rows, parts, begins, strict=True)
        ]
    )


class Validation:
    """Measures the validation loss of a denoiser.

    Args:
        config: How much.
        stores: Stores of the mixture.
        whitening: The denoiser's.
        view: What the training sees of the posteriors; symmetries are the training's alone.
        preconditioning: The denoiser's.
        seed: Seed of the run.
        batch: Rows of one forward pass.
        device: Device of the denoiser.
    """

    def __init__(
        self,
        config: ValidationConfig,
        *,
        stores: Sequence[LatentStore],
        whitening: Whitening,
        view: View,
        preconditioning: Preconditioning,
        seed: int,
        batch: int,
        device: str,
    ) -> None:
        self._preconditioning, self._batch, self._device = preconditioning, batch, device
        self.config = config
        moments = validation_moments(stores, images=config.images)
        self._samples = posterior_draws(
            moments,
            range(len(moments)),
            whitening=whitening,
            seed=seed,
            purpose="validation",
            view=view,
        )
        middles = (torch.arange(config.bins, dtype=torch.float64) + 0.5) / config.bins
        self.sigmas: list[float] = preconditioning.training_sigma(middles).tolist()

    @torch.no_grad()
    def losses(self, denoise: torch.nn.Module) -> list[BinLoss]:
        """The loss at every noise level, equal on every rank; all ranks must call it."""
        training = denoise.training
        denoise.eval()
        sums = torch.stack([self._sum(denoise, sigma) for sigma in self.sigmas])
        denoise.train(training)
        torch.distributed.all_reduce(sums)
        images = len(self._samples.clean_BCHW)
        return [
            BinLoss(sigma, float(total) / images, images)
            for sigma, total in zip(self.sigmas, sums, strict=True)
        ]

    def _sum(self, denoise: torch.nn.Module, sigma: float) -> torch.Tensor:
        """Sum of the losses of this rank's rows; every rank does as many forward passes."""
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        images = len(self._samples.clean_BCHW)
        per_rank = -(-images // world_size)
        mine = torch.arange(per_rank) * world_size + rank
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for part in torch.split(mine, self._batch):
            counted = (part < images).to(self._device)
            loss_B = self._loss(denoise, sigma, part.clamp(max=images - 1))
            total += (loss_B * counted).sum().double()
        return total

    def _loss(self, denoise: torch.nn.Module, sigma: float, rows: torch.Tensor) -> torch.Tensor:
        samples = CleanAndNoise(*(tensor[rows].to(self._device) for tensor in self._samples))
        sigma_B = torch.full((len(rows),), sigma, device=self._device)
        noisy_BCHW = samples.clean_BCHW + sigma * samples.noise_BCHW
        return self._preconditioning.loss(denoise(noisy_BCHW, sigma_B), samples.clean_BCHW, sigma_B)
