"""One batch of guided samples: noise -> latents -> pixels, and what the guide says of them.

Legend of suffixes: B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histodiff.diffusion import (
    AutoguidanceConfig,
    Denoise,
    GuidanceConfig,
    Guide,
    SamplerConfig,
    autoguided_denoiser,
    for_one_run,
    sample,
)
from histodiff.synthesis.plan import class_of, start_noise, step_noise


@dataclass(frozen=True)
class Networks:
    """The functions that sampling needs, on one device.

    ``denoise`` works on whitened latents; ``decode`` takes them to uint8 pixels ``(B, 3, H, W)``.
    ``weak`` is the weaker denoiser of autoguidance, of the same latents in the same whitening.
    """

    denoise: Denoise
    weak: Denoise | None
    guide: Guide
    decode: Callable[[Tensor], Tensor]
    latent_shape: tuple[int, int, int]
    device: str


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn."""

    sigmas: Tensor
    sampler: SamplerConfig
    guidance: GuidanceConfig
    autoguidance: AutoguidanceConfig | None
    seed: int


@dataclass(frozen=True)
class Drawn:
    """Finished samples: uint8 ``(B, H, W, 3)`` and log p(label | latent) at the lowest level."""

    pixels_BHWC: npt.NDArray[np.uint8]
    log_prob_B: npt.NDArray[np.float32]


@torch.no_grad()
def draw(networks: Networks, drawing: Drawing, samples: Sequence[int]) -> Drawn:
    """Draws the samples with the given global indices."""
    device, num_classes = networks.device, len(networks.guide.classes)
    labels_B = torch.tensor(
        [class_of(index, num_classes=num_classes) for index in samples], device=device
    )
    shape = networks.latent_shape
    latents_BCHW = sample(
        networks.guide.steered(
            _denoise(networks, drawing.autoguidance), labels_B, guidance=drawing.guidance
        ),
        sigmas=drawing.sigmas,
        sampler=drawing.sampler,
        noise_B=start_noise(samples, shape=shape, seed=drawing.seed).to(device),
        step_noise=step_noise(samples, shape=shape, seed=drawing.seed, device=device),
    )  # fmt: skip
    lowest_B = torch.full((len(samples),), float(drawing.sigmas[-2]), device=device)
    log_p_BK = networks.guide.log_probabilities(latents_BCHW, lowest_B)
    return Drawn(
        networks.decode(latents_BCHW).permute(0, 2, 3, 1).cpu().numpy(),
        log_p_BK.gather(1, labels_B[:, None]).squeeze(1).float().cpu().numpy(),
    )


def _denoise(networks: Networks, autoguidance: AutoguidanceConfig | None) -> Denoise:
    """The denoiser for one run of the sampler, before a guide steers it."""
    denoise = for_one_run(networks.denoise)
    if networks.weak is None or autoguidance is None:
        return denoise
    return autoguided_denoiser(denoise, for_one_run(networks.weak), autoguidance)
