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
    noise_levels_below,
    sample,
)
from histodiff.synthesis.plan import class_of, start_noise, step_noise
from histodiff.synthesis.variation import Variation, clean_latents, source_of


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
    variation: Variation | None
    """What samples start from; None starts from noise."""
    seed: int


@dataclass(frozen=True)
class DrawnLatents:
    """Finished latents and log p(label | latent) at the lowest level, both on the device."""

    latents_BCHW: Tensor
    log_prob_B: Tensor


@dataclass(frozen=True)
class Drawn:
    """Finished samples: uint8 ``(B, H, W, 3)`` and log p(label | latent) at the lowest level."""

    pixels_BHWC: npt.NDArray[np.uint8]
    log_prob_B: npt.NDArray[np.float32]


def draw(networks: Networks, drawing: Drawing, samples: Sequence[int]) -> Drawn:
    """Draws the samples with the given global indices."""
    return decoded(networks, draw_latents(networks, drawing, samples))


@torch.no_grad()
def draw_latents(networks: Networks, drawing: Drawing, samples: Sequence[int]) -> DrawnLatents:
    """Draws the latents of the samples with the given global indices."""
    device, num_classes = networks.device, len(networks.guide.classes)
    labels_B = torch.tensor(
        [class_of(index, num_classes=num_classes) for index in samples], device=device
    )
    if drawing.variation is None:
        latents_BCHW = _carried(networks, drawing, samples, labels_B, drawing.sigmas, None)
    else:
        latents_BCHW = _varied(networks, drawing, drawing.variation, samples, labels_B)
    lowest_B = torch.full((len(samples),), float(drawing.sigmas[-2]), device=device)
    log_p_BK = networks.guide.log_probabilities(latents_BCHW, lowest_B)
    return DrawnLatents(latents_BCHW, log_p_BK.gather(1, labels_B[:, None]).squeeze(1))


@torch.no_grad()
def decoded(networks: Networks, drawn: DrawnLatents) -> Drawn:
    """The pixels of latents, in memory of the host."""
    return Drawn(
        networks.decode(drawn.latents_BCHW).permute(0, 2, 3, 1).cpu().numpy(),
        drawn.log_prob_B.float().cpu().numpy(),
    )


def _denoise(networks: Networks, autoguidance: AutoguidanceConfig | None) -> Denoise:
    """The denoiser for one run of the sampler, before a guide steers it."""
    denoise = networks.guide.adapted(for_one_run(networks.denoise))
    if networks.weak is None or autoguidance is None:
        return denoise
    return autoguided_denoiser(denoise, for_one_run(networks.weak), autoguidance)


def _varied(
    networks: Networks,
    drawing: Drawing,
    variation: Variation,
    samples: Sequence[int],
    labels_B: Tensor,
) -> Tensor:
    """Latents of samples that start from sources, those of one noise level together."""
    num_classes = len(networks.guide.classes)
    sources = [
        source_of(variation, number, num_classes=num_classes, seed=drawing.seed)
        for number in samples
    ]
    clean_BCHW = clean_latents(variation, sources, samples, seed=drawing.seed)
    clean_BCHW = clean_BCHW.to(networks.device)
    latents_BCHW = torch.empty_like(clean_BCHW)
    for sigma in sorted({source.sigma for source in sources}):
        places = [place for place, source in enumerate(sources) if source.sigma == sigma]
        latents_BCHW[places] = _carried(
            networks, drawing, [samples[place] for place in places], labels_B[places],
            noise_levels_below(drawing.sigmas, sigma), clean_BCHW[places],
        )  # fmt: skip
    return latents_BCHW


def _carried(
    networks: Networks,
    drawing: Drawing,
    samples: Sequence[int],
    labels_B: Tensor,
    sigmas: Tensor,
    start_BCHW: Tensor | None,
) -> Tensor:
    """Latents of the samples with these numbers, carried along ``sigmas``."""
    shape, device = networks.latent_shape, networks.device
    return sample(
        networks.guide.steered(
            _denoise(networks, drawing.autoguidance), labels_B, guidance=drawing.guidance
        ),
        sigmas=sigmas,
        sampler=drawing.sampler,
        noise_B=start_noise(samples, shape=shape, seed=drawing.seed).to(device),
        step_noise=step_noise(samples, shape=shape, seed=drawing.seed, device=device),
        start_BCHW=start_BCHW,
    )  # fmt: skip
