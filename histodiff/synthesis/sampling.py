"""One batch of guided samples: noise -> latents -> pixels, and what the guide says of them.

Legend of suffixes: B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histodiff.diffusion import Denoise, GuidanceConfig, SamplerConfig, guided_denoiser, sample
from histodiff.synthesis.plan import class_of, start_noise, step_noise

LogProbabilities = Callable[[Tensor, Tensor], Tensor]
"""``log_probabilities(x_BCHW, sigma_B) -> log p(k | x; sigma)`` of shape (B, K)."""


@dataclass(frozen=True)
class Networks:
    """The functions that sampling needs, on one device.

    ``denoise`` works on whitened latents; ``decode`` takes them to uint8 pixels ``(B, 3, H, W)``.
    """

    denoise: Denoise
    log_probabilities: LogProbabilities
    decode: Callable[[Tensor], Tensor]
    latent_shape: tuple[int, int, int]
    num_classes: int
    device: str


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn."""

    sigmas: Tensor
    sampler: SamplerConfig
    guidance: GuidanceConfig
    seed: int


@dataclass(frozen=True)
class Drawn:
    """Finished samples: uint8 ``(B, H, W, 3)`` and log p(label | latent) at the lowest level."""

    pixels_BHWC: npt.NDArray[np.uint8]
    log_prob_B: npt.NDArray[np.float32]


@torch.no_grad()
def draw(networks: Networks, drawing: Drawing, samples: Sequence[int]) -> Drawn:
    """Draws the samples with the given global indices."""
    device = networks.device
    labels_B = torch.tensor(
        [class_of(index, num_classes=networks.num_classes) for index in samples], device=device
    )

    def log_prob(x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        every_BK = networks.log_probabilities(x_BCHW, sigma_B)
        return every_BK.gather(1, labels_B[:, None]).squeeze(1)

    shape = networks.latent_shape
    latents_BCHW = sample(
        guided_denoiser(
            networks.denoise, log_prob,
            scale=drawing.guidance.scale, sigma_interval=drawing.guidance.sigma_interval,
        ),
        sigmas=drawing.sigmas,
        sampler=drawing.sampler,
        noise_B=start_noise(samples, shape=shape, seed=drawing.seed).to(device),
        step_noise=step_noise(samples, shape=shape, seed=drawing.seed, device=device),
    )  # fmt: skip
    lowest_B = torch.full((len(samples),), float(drawing.sigmas[-2]), device=device)
    return Drawn(
        networks.decode(latents_BCHW).permute(0, 2, 3, 1).cpu().numpy(),
        log_prob(latents_BCHW, lowest_B).float().cpu().numpy(),
    )
