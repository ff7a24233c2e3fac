"""Training batches: random crops, flipped and turned, with the noise of their posterior draws.

``(seed, global sample index)`` decides everything about a crop, where the index is
``step * batch + place``: neither ranks, nor micro-batches, nor a restart change what is drawn.
Legend: B batch of this rank, C channels, H height, W width.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histodiff.errors import ConfigError
from histodiff.pretraining.autoencoder.patches import PlacedPatches
from histodiff.runtime import generator_for
from histodiff.runtime.symmetries import NAMES


class CropBatch(NamedTuple):
    """This rank's share of a batch."""

    pixels_BCHW: Tensor
    """uint8, channels-last in memory. Arithmetic is left to the thread that trains: one parallel
    operation of torch in a second thread makes another team of OpenMP threads, after which every
    operation of the first waits in the kernel for its team (measured: steps 1.7 times as long)."""
    noise_BCHW: Tensor
    """Standard normal, of the shape of the latents."""
    label_B: Tensor
    """Numbers of their classes; ``NO_LABEL`` where there is none."""
    turn_B: Tensor
    """Numbers of symmetries of the square, for a loss that turns latents."""


class CropSource:
    """Batches of one rank.

    Args:
        patches: Those of the rank's places of the batch.
        crop_px: Side of the crops.
        latent_channels: Channels of a latent.
        downsampling: Pixels per latent position along one side.
        batch: Crops of a whole batch.
        seed: Decides every draw.

    Raises:
        ConfigError: ``crop_px`` is larger than the patches, or no multiple of the downsampling.
    """

    def __init__(
        self,
        patches: PlacedPatches,
        *,
        crop_px: int,
        latent_channels: int,
        downsampling: int,
        batch: int,
        seed: int,
    ) -> None:
        side = patches.pixels_NHWC.shape[1]
        if crop_px > side or crop_px % downsampling:
            raise ConfigError(
                f"mode.crop_px {crop_px}: must be a multiple of the downsampling ({downsampling})"
                f" and at most the patches' side ({side} px)"
            )
        self._patches, self._crop_px, self._batch, self._seed = patches, crop_px, batch, seed
        self._latent_shape = (latent_channels, crop_px // downsampling, crop_px // downsampling)

    def batch_at(self, step: int) -> CropBatch:
        """The batch of ``step``, a pure function of it."""
        drawn = [self._crop(step * self._batch + place, place) for place in self._patches.by_place]
        crops, noises, labels, turns = zip(*drawn, strict=True)
        pixels_BCHW = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        noise_BCHW = torch.from_numpy(np.stack(noises))
        return CropBatch(pixels_BCHW, noise_BCHW, torch.tensor(labels), torch.tensor(turns))

    def batches(self, steps: range) -> Iterator[CropBatch]:
        """The batches of some steps."""
        return (self.batch_at(step) for step in steps)

    def _crop(self, index: int, place: int) -> "_Drawn":
        generator = generator_for(self._seed, "autoencoder sample", index)
        number = generator.choice(self._patches.by_place[place])
        pixels_HWC = self._patches.pixels_NHWC[number]
        y, x = generator.integers(pixels_HWC.shape[0] - self._crop_px + 1, size=2)
        crop_HWC = pixels_HWC[y : y + self._crop_px, x : x + self._crop_px]
        crop_HWC = np.rot90(crop_HWC, k=int(generator.integers(4)))
        flipped = bool(generator.integers(2))
        noise = generator.standard_normal(self._latent_shape, dtype=np.float32)
        turned_HWC = crop_HWC[:, ::-1] if flipped else crop_HWC
        turn = int(generator.integers(len(NAMES)))
        return _Drawn(turned_HWC, noise, int(self._patches.label_N[number]), turn)


class _Drawn(NamedTuple):
    """One crop, with what belongs to it."""

    pixels_HWC: npt.NDArray[np.uint8]
    noise_CHW: npt.NDArray[np.float32]
    label: int
    turn: int
