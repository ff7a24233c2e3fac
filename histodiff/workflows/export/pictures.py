"""Pictures of an exported pipeline: its sample grid, and how far they are from ours.

Legend: B batch, C channels, H height, W width.
"""

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from histodiff.diffusion.samplers import DdimSampler, sample
from histodiff.latents import Whitening
from histodiff.models.autoencoder import Autoencoder
from histodiff.models.denoiser import LoadedDenoiser
from histodiff.models.diffusers_pipeline import DiffusersPipeline, pipeline_sigmas

GRID_SIDE = 4
"""Pictures in a row, and rows."""
_COMPARED = 2
"""Samples that are drawn both ways."""


def drawn_pictures(
    pipeline: DiffusersPipeline, *, count: int, steps: int, seed: int
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """Pictures of the pipeline, float32 ``(B, H, W, 3)`` in [0, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    pictures: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = pipeline(
        batch_size=count, generator=torch.Generator().manual_seed(seed),
        num_inference_steps=steps, output_type="np",
    ).images  # fmt: skip
    return pictures


def grid_png(pipeline: DiffusersPipeline, *, steps: int, seed: int) -> bytes:
    """The first samples of a seed, side by side, as PNG."""
    drawn = drawn_pictures(pipeline, count=GRID_SIDE**2, steps=steps, seed=seed)
    _, height, width, channels = drawn.shape
    tiled = drawn.reshape(GRID_SIDE, GRID_SIDE, height, width, channels).swapaxes(1, 2)
    rows = tiled.reshape(GRID_SIDE * height, GRID_SIDE * width, channels)
    stream = io.BytesIO()
    Image.fromarray((rows * 255).round().astype(np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def largest_difference(
    pipeline: DiffusersPipeline,
    denoiser: LoadedDenoiser,
    autoencoder: Autoencoder,
    *,
    steps: int,
    seed: int,
) -> float:
    """The largest difference of a value of a picture, of 0 to 1, to ours of the same noise.

    Ours are drawn by DDIM on the levels of the pipeline; both are decoded to floats.
    """
    theirs = drawn_pictures(pipeline, count=_COMPARED, steps=steps, seed=seed)
    noise_BCHW = torch.randn(
        (_COMPARED, *denoiser.latent_shape), generator=torch.Generator().manual_seed(seed)
    )
    ours_BCHW = _our_pictures(
        denoiser,
        autoencoder,
        noise_BCHW.to(autoencoder.network.device),
        pipeline_sigmas(pipeline, steps),
    )
    ours = ours_BCHW.permute(0, 2, 3, 1).cpu().numpy()
    return float(np.abs(theirs - ours).max())


@torch.no_grad()
def _our_pictures(
    denoiser: LoadedDenoiser, autoencoder: Autoencoder, noise_BCHW: Tensor, sigmas: Tensor
) -> Tensor:
    data_std = denoiser.denoiser.preconditioning.data_std
    latents_BCHW = sample(
        denoiser.denoiser,
        sigmas=sigmas * data_std,
        sampler=DdimSampler(type="ddim", eta=0.0),
        # the pipeline starts at z = n, which is x = sqrt(1 + sigma^2) n, and ours at sigma n
        noise_B=noise_BCHW * math.sqrt(1 + 1 / float(sigmas[0]) ** 2),
        step_noise=_no_noise,
    )
    whitening = Whitening(denoiser.whitening_mean, denoiser.whitening_scale)
    decoded_BCHW: Tensor = autoencoder.network.decode(whitening.invert(latents_BCHW)).sample
    return (decoded_BCHW.float() / 2 + 0.5).clamp(0, 1)


def _no_noise(step: int) -> Tensor:
    raise AssertionError(f"DDIM with eta 0 draws no noise, but step {step} asked for some")
