"""Sample grids of a running training: the same noise, carried to pictures by the average so far.

All randomness is the config's seed; weights are a copy, so training sees nothing of it. Other ranks
wait while rank 0 draws. Legend: B batch, C channels, H height, W width.
"""

import io

import numpy as np
import torch
from PIL import Image

from histodiff.diffusion import KarrasSchedule, noise_levels, sample
from histodiff.diffusion.samplers import HeunSampler
from histodiff.kernels.attention import AttentionConfig
from histodiff.models.autoencoder import Autoencoder, load_autoencoder
from histodiff.models.denoiser import Denoiser
from histodiff.pretraining.spec import PretrainSpec
from histodiff.runtime import generator_for
from histodiff.storage import storage_path, write_bytes

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
    """

    def __init__(self, spec: PretrainSpec, latent_shape: tuple[int, int, int]) -> None:
        self._spec, self._shape = spec, latent_shape
        self._autoencoder: Autoencoder | None = None

    def write(self, state: dict[str, torch.Tensor], *, images_seen: int) -> None:
        """Writes the grid of a denoiser with these weights as ``previews/images-....png``."""
        pixels_BCHW = self._pixels(self._latents(state))
        stream = io.BytesIO()
        Image.fromarray(_grid(pixels_BCHW)).save(stream, format="PNG")
        target = storage_path(self._spec.artifact) / PREVIEWS / f"images-{images_seen:012d}.png"
        write_bytes(target, stream.getvalue())

    def _latents(self, state: dict[str, torch.Tensor]) -> torch.Tensor:
        """Whitened latents, BCHW."""
        denoiser = self._denoiser(state)
        noise = [
            generator_for(self._spec.seed, "preview", number).standard_normal(
                self._shape, np.float32
            )
            for number in range(_SIDE**2)
        ]
        return sample(
            denoiser,
            sigmas=noise_levels(
                KarrasSchedule(type="karras", steps=_STEPS), denoiser.preconditioning
            ),
            sampler=HeunSampler(type="heun"),
            noise_B=torch.from_numpy(np.stack(noise)).to(self._spec.device),
            step_noise=_no_noise,
        )

    def _denoiser(self, state: dict[str, torch.Tensor]) -> Denoiser:
        unet = self._spec.denoiser.unet
        here = unet.model_copy(update={"attention": AttentionConfig(backend="auto")})
        with torch.random.fork_rng(devices=[]):  # first weights are drawn, and replaced
            denoiser = Denoiser(
                self._spec.denoiser.model_copy(update={"unet": here}),
                latent_shape=self._shape,
                device=self._spec.device,
            )
        denoiser.load_state_dict(state)
        return denoiser.eval().requires_grad_(requires_grad=False)

    def _pixels(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """uint8 BCHW, decoded; without an autoencoder the first three channels themselves."""
        if self._spec.preview_autoencoder is None:
            shown = latents_BCHW[:, :3] if self._shape[0] >= 3 else latents_BCHW[:, :1]
            scaled = (shown / _LATENT_RANGE).clamp(-1, 1) * 127.5 + 127.5
            big = scaled.repeat_interleave(_LATENT_PX, 2).repeat_interleave(_LATENT_PX, 3)
            return big.round().to(torch.uint8).expand(-1, 3, -1, -1)
        if self._autoencoder is None:
            self._autoencoder = load_autoencoder(
                storage_path(self._spec.preview_autoencoder), device=self._spec.device
            )
        return self._autoencoder.decode(self._spec.whitening.invert(latents_BCHW))


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
