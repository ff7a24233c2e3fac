"""Training of a small KL autoencoder: patches in memory, batches by step, the loss.

The batch of step ``k`` is a pure function of (seed, k), so that ``training.fit`` can resume. The
loss needs no download: L1 on pixels, plus L1 on their gradients at several scales (edges count as
much as flat colour, which keeps nuclei sharp), plus a light KL term that holds the latents near
unit variance. Legend: N patches, B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from histodiff.artifacts import UnitIssue
from histodiff.config import Config
from histodiff.data_prep.slides.patch_index import PatchIndex
from histodiff.data_prep.slides.reading import PatchReader
from histodiff.errors import ConfigError
from histodiff.models.autoencoder import (
    AutoencoderArchitecture,
    AutoencoderNetwork,
    signed_pixels,
)
from histodiff.runtime import derived_seed, generator_for
from histodiff.telemetry import progress
from histodiff.training.fit import FitConfig

_READ_ROWS = 64


class ReconstructionLoss(Config):
    """Weights of the terms of the loss; pixels are in -1..1."""

    gradient: float = Field(default=1.0, ge=0)
    """Weight of the L1 error of the gradients, against 1 for the L1 error of the pixels."""
    gradient_scales: int = Field(default=3, ge=1, le=5)
    """Number of scales of the gradients, halving the resolution from one to the next."""
    kl: float = Field(gt=0)
    """Weight of the KL divergence to a standard normal, as a mean over latent values."""


class AutoencoderTraining(Config):
    """What is trained, and how."""

    architecture: AutoencoderArchitecture
    """The network."""
    loss: ReconstructionLoss
    """The loss."""
    crop_px: int = Field(ge=8)
    """Side of the random crops that are trained on; at most the patches' side."""
    batch: int = Field(ge=1)
    """Crops per step."""
    max_patches: int = Field(ge=1)
    """At most this many patches are used, drawn at random; they are held in memory."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the network while training; bf16 is slower on most CPUs."""
    fit: FitConfig
    """Optimizer, schedule and number of steps."""


@dataclass(frozen=True)
class LoadedPatches:
    """Patches in memory, and those that could not be read."""

    pixels_NHWC: npt.NDArray[np.uint8]
    failed: tuple[UnitIssue, ...]


def load_patches(
    indexes: Sequence[PatchIndex], *, split: Literal["train", "val"], count: int, seed: int
) -> LoadedPatches:
    """At most ``count`` patches of a split, drawn at random over all indexes, in reading order.

    Raises:
        ConfigError: The indexes disagree about ``patch_px``, or the split has no readable patch.
    """
    sides = {index.patch_px for index in indexes}
    if len(sides) != 1:
        raise ConfigError(
            f"patches: these have different patch_px ({sorted(sides)}); tile them alike"
        )
    rows = _drawn_rows(indexes, split=split, count=count, seed=seed)
    side = sides.pop()
    total = sum(len(numbers) for numbers in rows)
    pixels_NHWC = np.empty((total, side, side, 3), dtype=np.uint8)
    failed: list[UnitIssue] = []
    filled = 0
    with progress(f"read {split} patches", total=total, unit="patches") as bar:
        for index, numbers in zip(indexes, rows, strict=True):
            reader = PatchReader(index)
            for start in range(0, len(numbers), _READ_ROWS):
                part = numbers[start : start + _READ_ROWS]
                block = reader.read([int(number) for number in part])
                good = [place for place in range(len(part)) if place not in block.failures]
                pixels_NHWC[filled : filled + len(good)] = block.pixels[good]
                filled += len(good)
                failed += _issues(index, part, block.failures)
                bar.advance(len(part))
    if filled == 0:
        raise ConfigError(
            f"patches: split '{split}' has no readable patch; tile more slides, or give `tile`"
            f" other split fractions"
        )
    return LoadedPatches(pixels_NHWC[:filled], tuple(failed))


def _drawn_rows(
    indexes: Sequence[PatchIndex], *, split: str, count: int, seed: int
) -> list[npt.NDArray[np.int64]]:
    """Sorted patch numbers for every index; together at most ``count``."""
    candidates = [
        np.flatnonzero(np.asarray(index.patches["split"].to_pylist()) == split) for index in indexes
    ]
    sizes = [len(numbers) for numbers in candidates]
    total = sum(sizes)
    generator = generator_for(seed, "autoencoder patches", split)
    drawn = np.sort(generator.permutation(total)[:count])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return [
        numbers[drawn[(drawn >= start) & (drawn < start + len(numbers))] - start].astype(np.int64)
        for numbers, start in zip(candidates, starts[:-1], strict=True)
    ]


def _issues(
    index: PatchIndex, numbers: npt.NDArray[np.int64], failures: dict[int, str]
) -> list[UnitIssue]:
    issues = []
    for place, text in failures.items():
        row = index.patches.slice(int(numbers[place]), 1).to_pylist()[0]
        unit = row["path"] or f"{row['slide_id']}@{row['x']},{row['y']}"
        reason, _, detail = text.partition(": ")
        issues.append(UnitIssue(unit=unit, reason=reason, detail=detail))
    return issues


def crops_at(
    pixels_NHWC: npt.NDArray[np.uint8], step: int, *, batch: int, crop_px: int, seed: int
) -> Tensor:
    """The training batch of ``step``: random crops, flipped and turned; float BCHW in -1..1."""
    generator = generator_for(seed, "autoencoder batch", step)
    side = pixels_NHWC.shape[1]
    crops = []
    for number in generator.integers(len(pixels_NHWC), size=batch):
        y, x = generator.integers(side - crop_px + 1, size=2)
        crop = pixels_NHWC[number, y : y + crop_px, x : x + crop_px]
        crop = np.rot90(crop, k=int(generator.integers(4)))
        crops.append(crop[:, ::-1] if generator.integers(2) else crop)
    # pixels uint8 NHWC -> float32 NCHW, kept channels-last in memory
    return signed_pixels(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2))


def training_loss(
    network: AutoencoderNetwork,
    pixels_NHWC: npt.NDArray[np.uint8],
    training: AutoencoderTraining,
    *,
    seed: int,
) -> Callable[[int], Tensor]:
    """The loss of step ``k``, a pure function of the network and ``k``.

    Raises:
        ConfigError: ``crop_px`` does not suit the patches or the network's downsampling.
    """
    side, crop_px = pixels_NHWC.shape[1], training.crop_px
    factor = 2 ** (len(training.architecture.channels) - 1)
    if crop_px > side or crop_px % factor:
        raise ConfigError(
            f"mode.crop_px {crop_px}: must be a multiple of the downsampling ({factor}) and at most"
            f" the patches' side ({side} px)"
        )
    device = network.device

    def loss(step: int) -> Tensor:
        clean_BCHW = crops_at(
            pixels_NHWC, step, batch=training.batch, crop_px=crop_px, seed=seed
        ).to(device)
        draws = torch.Generator().manual_seed(derived_seed(seed, "autoencoder posterior", step))
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            posterior = network.encode(clean_BCHW).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=draws).to(device)
            decoded_BCHW = network.decode(posterior.mean + posterior.std * noise).sample
        return reconstruction_error(decoded_BCHW.float(), clean_BCHW, training.loss) + (
            training.loss.kl * kl_divergence(posterior.mean.float(), posterior.logvar.float())
        )

    return loss


def reconstruction_error(
    decoded_BCHW: Tensor, clean_BCHW: Tensor, weights: ReconstructionLoss
) -> Tensor:
    """L1 error of pixels, and of gradients averaged over scales."""
    error_BCHW = decoded_BCHW - clean_BCHW
    total = error_BCHW.abs().mean()
    for scale in range(weights.gradient_scales):
        if scale:
            error_BCHW = functional.avg_pool2d(error_BCHW, 2)
        # The gradient is linear: the error's gradient is the gradients' error.
        across = (error_BCHW[..., :, 1:] - error_BCHW[..., :, :-1]).abs().mean()
        down = (error_BCHW[..., 1:, :] - error_BCHW[..., :-1, :]).abs().mean()
        total = total + weights.gradient / weights.gradient_scales * (across + down)
    return total


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of N(mean, variance) to N(0, 1), mean over values (Kingma & Welling 2014, App. B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
