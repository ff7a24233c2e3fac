"""Samples of a running training: the same noise, carried to pictures by the average so far.

A grid is shown, and more samples may be measured against decoded validation rows: both sides pass
through one decoder, so what differs is the denoiser's. All randomness is the config's seed; weights
are a copy, so training sees nothing of it. Other ranks wait while rank 0 draws.

Legend: B batch, C channels, H height, W width.
"""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from histodiff.diffusion import KarrasSchedule, noise_levels, sample
from histodiff.diffusion.samplers import HeunSampler
from histodiff.latents import LatentStore
from histodiff.models.autoencoder import Autoencoder, load_autoencoder
from histodiff.models.denoiser import Denoiser, published, with_attention_here
from histodiff.pretraining.spec import PretrainSpec, PreviewQuality
from histodiff.pretraining.validation import validation_moments
from histodiff.runtime import generator_for
from histodiff.storage import storage_path, write_bytes

_log = logging.getLogger(__name__)

PREVIEWS = "previews"
_SIDE = 4
"""Pictures in a row, and rows."""
_STEPS = 18
"""Karras et al. 2022 need as many on small images."""
_LATENT_RANGE, _LATENT_PX = 3.0, 4
"""Without a decoder whitened latents of -3 to 3 are shown, each value as so many pixels squared."""


class Previews:
    """Draws the grids of one training, on rank 0.

    Args:
        spec: Names the network, the seed, and the autoencoder that decodes, if there is one.
        latent_shape: (C, h, w) of a latent.
        stores: Stores of the mixture, whose validation rows samples are measured against.
    """

    def __init__(
        self,
        spec: PretrainSpec,
        latent_shape: tuple[int, int, int],
        *,
        stores: Sequence[LatentStore],
    ) -> None:
        self._spec, self._shape, self._stores = spec, latent_shape, stores
        self._autoencoder: Autoencoder | None = None
        self._real_NHWC: npt.NDArray[np.uint8] | None = None

    def write(self, state: dict[str, torch.Tensor], *, images_seen: int) -> None:
        """Writes what a denoiser with these weights draws into ``previews/``.

        A grid as ``images-....png``; measures, where they are asked for, as ``images-....json``.
        """
        quality, denoiser = self._spec.preview_quality, self._denoiser(state)
        drawn = [self._drawn(denoiser, range(_SIDE**2))]
        stream = io.BytesIO()
        Image.fromarray(_grid(drawn[0])).save(stream, format="PNG")
        folder, name = storage_path(self._spec.artifact) / PREVIEWS, f"images-{images_seen:012d}"
        write_bytes(folder / f"{name}.png", stream.getvalue())
        if quality is None:
            return
        for start in range(_SIDE**2, quality.samples, _SIDE**2):
            part = range(start, min(start + _SIDE**2, quality.samples))
            drawn.append(self._drawn(denoiser, part))
        samples_NHWC = _images(torch.cat(drawn)[: quality.samples])
        found = {"images_seen": images_seen, **quality.measure(samples_NHWC, self._real(quality))}
        write_bytes(folder / f"{name}.json", (json.dumps(found, indent=2) + "\n").encode())
        _log.info("preview after %d images: %s", images_seen, _in_words(found))

    def _drawn(self, denoiser: Denoiser, numbers: Sequence[int]) -> torch.Tensor:
        """uint8 BCHW of the samples with these numbers."""
        noise = [
            generator_for(self._spec.seed, "preview", number).standard_normal(
                self._shape, np.float32
            )
            for number in numbers
        ]
        return self._pixels(
            sample(
                denoiser.fresh(),
                sigmas=noise_levels(
                    KarrasSchedule(type="karras", steps=_STEPS), denoiser.preconditioning
                ),
                sampler=HeunSampler(type="heun"),
                noise_B=torch.from_numpy(np.stack(noise)).to(self._spec.device),
                step_noise=_no_noise,
            )
        )

    def _real(self, quality: PreviewQuality) -> npt.NDArray[np.uint8]:
        """Validation rows, decoded from the means of their posteriors, NHWC; made once."""
        if self._real_NHWC is None:
            moments = validation_moments(self._stores, images=quality.samples)
            means = torch.from_numpy(moments[:, : self._shape[0]].astype(np.float32))
            parts = [self._decoder().decode(part) for part in torch.split(means, _SIDE**2)]
            self._real_NHWC = _images(torch.cat(parts))
        return self._real_NHWC

    def _denoiser(self, state: dict[str, torch.Tensor]) -> Denoiser:
        with torch.random.fork_rng(devices=[]):  # first weights are drawn, and replaced
            denoiser = Denoiser(
                with_attention_here(self._spec.denoiser),
                latent_shape=self._shape,
                device=self._spec.device,
            )
        denoiser.load_state_dict(published(state))
        return denoiser.eval().requires_grad_(requires_grad=False)

    def _pixels(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """uint8 BCHW, decoded; without an autoencoder the first three channels themselves."""
        if self._spec.preview_autoencoder is None:
            shown = latents_BCHW[:, :3] if self._shape[0] >= 3 else latents_BCHW[:, :1]
            scaled = (shown / _LATENT_RANGE).clamp(-1, 1) * 127.5 + 127.5
            big = scaled.repeat_interleave(_LATENT_PX, 2).repeat_interleave(_LATENT_PX, 3)
            return big.round().to(torch.uint8).expand(-1, 3, -1, -1)
        return self._decoder().decode(self._spec.whitening.invert(latents_BCHW))

    def _decoder(self) -> Autoencoder:
        assert self._spec.preview_autoencoder is not None
        if self._autoencoder is None:
            self._autoencoder = load_autoencoder(
                storage_path(self._spec.preview_autoencoder), device=self._spec.device
            )
        return self._autoencoder


def _images(pixels_BCHW: torch.Tensor) -> npt.NDArray[np.uint8]:
    """NHWC."""
    images: npt.NDArray[np.uint8] = pixels_BCHW.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return images


def _in_words(found: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in found.items()
        if isinstance(value, float)
    )


def _grid(pixels_BCHW: torch.Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """The pictures row by row: uint8 (H', W', 3)."""
    _, channels, height, width = pixels_BCHW.shape
    tiled = pixels_BCHW.reshape(_SIDE, _SIDE, channels, height, width).permute(0, 3, 1, 4, 2)
    rows: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = (
        tiled.reshape(_SIDE * height, _SIDE * width, channels).cpu().numpy()
    )
    return rows


def _no_noise(step: int) -> torch.Tensor:
    raise AssertionError(f"Heun's method draws no noise, but step {step} asked for some")
