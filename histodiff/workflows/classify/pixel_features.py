"""Pixels to features, for linear classifiers. Legend: N images, D features."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from histodiff.artifacts import Artifact
from histodiff.classification.colour import colour_histograms
from histodiff.classification.images import Pixels
from histodiff.latents import Whitening
from histodiff.models.feature_head import DenoiserFeatures
from histodiff.runtime import generator_for
from histodiff.telemetry import progress
from histodiff.workflows.classify.method_kinds import (
    AUTOENCODER,
    DENOISER,
    DenoiserFeaturesMethod,
    FeatureMethod,
)
from histodiff.workflows.networks import open_autoencoder, open_denoiser

Features = Callable[[Pixels], npt.NDArray[np.floating[Any]]]
"""Features (N, D) of images uint8."""


def pixel_features(
    method: FeatureMethod, inputs: Mapping[str, Artifact], *, batch: int, device: str
) -> Features:
    """Features of images, as a method wants them."""
    if isinstance(method, DenoiserFeaturesMethod):
        return _denoiser_features(method, inputs, batch=batch, device=device)
    return partial(colour_histograms, bins=method.bins)


def _denoiser_features(
    method: DenoiserFeaturesMethod, inputs: Mapping[str, Artifact], *, batch: int, device: str
) -> Features:
    loaded = open_denoiser(inputs[DENOISER], device=device, snapshot=method.snapshot)
    autoencoder = open_autoencoder(inputs[AUTOENCODER], device=device)
    whitening = Whitening(loaded.whitening_mean, loaded.whitening_scale)
    network = DenoiserFeatures(loaded.denoiser, method.layers, field="method.layers")
    noise = {
        sigma: torch.from_numpy(
            generator_for(0, "probe-noise", number).standard_normal(loaded.latent_shape, np.float32)
        ).to(device)
        for number, sigma in enumerate(method.sigmas)
    }

    @torch.no_grad()
    def features(pixels_NHWC: Pixels) -> npt.NDArray[np.float32]:
        # pixels uint8 -> posterior means -> whitened, noisy latents -> means and deviations
        parts = []
        for pixels_BCHW in _batches(pixels_NHWC, batch=batch, device=device):
            clean_BCHW = whitening.apply(autoencoder.encode(pixels_BCHW).mean)
            ones_B = torch.ones(len(clean_BCHW), device=device)
            found = [
                network(clean_BCHW + sigma * each, sigma * ones_B) for sigma, each in noise.items()
            ]
            parts.append(torch.cat(found, dim=1).cpu().numpy())
        return np.concatenate(parts)

    return features


def _batches(pixels_NHWC: Pixels, *, batch: int, device: str) -> Iterator[torch.Tensor]:
    with progress("features", total=len(pixels_NHWC), unit="images") as bar:
        for start in range(0, len(pixels_NHWC), batch):
            part = torch.from_numpy(pixels_NHWC[start : start + batch]).to(device)
            yield part.permute(0, 3, 1, 2)
            bar.advance(len(part))
