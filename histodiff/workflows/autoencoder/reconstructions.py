"""What is measured of an autoencoder on held-out patches, and written beside it."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from histodiff.evaluation.equivariance import equivariance
from histodiff.evaluation.reconstruction import comparison_picture, reconstruction_quality
from histodiff.models.autoencoder import Autoencoder, signed_pixels
from histodiff.models.perceptual import (
    Lpips,
    PerceptualDistance,
    RandomFeatures,
    perceptual_distance,
)
from histodiff.storage import StoragePath, write_bytes
from histodiff.telemetry import progress

_BATCH = 16
_PICTURED = 16
_TURNED = 32
"""Held-out patches on which equivariance is measured: 15 passes over them."""


def measured(
    network: Autoencoder,
    originals_NHWC: npt.NDArray[np.uint8],
    folder: StoragePath,
    *,
    perceptual: RandomFeatures | Lpips,
) -> dict[str, Any]:
    """Writes ``metrics.json`` and ``reconstructions.png``; returns quality for the manifest."""
    distance = perceptual_distance(perceptual, device=str(network.network.device))
    distances: list[float] = []
    decoded, means, stds = [], [], []
    with progress("measure", total=len(originals_NHWC), unit="patches") as bar:
        for start in range(0, len(originals_NHWC), _BATCH):
            part_NHWC = originals_NHWC[start : start + _BATCH]
            moments = network.encode(torch.from_numpy(part_NHWC).permute(0, 3, 1, 2))
            decoded.append(network.decode(moments.mean).permute(0, 2, 3, 1).cpu().numpy())
            distances += _distances(distance, decoded[-1], part_NHWC)
            means.append(moments.mean.cpu())
            stds.append(moments.std.cpu())
            bar.advance(len(part_NHWC))
    reconstructions_NHWC = np.concatenate(decoded)
    quality = {
        **asdict(reconstruction_quality(originals_NHWC, reconstructions_NHWC)),
        "perceptual_distance": float(np.mean(distances)),
        "perceptual_network": perceptual.type,
    }
    mean_BCHW, std_BCHW = torch.cat(means), torch.cat(stds)
    latents = {
        "latent_mean": mean_BCHW.mean(dim=(0, 2, 3)).tolist(),
        "latent_std": mean_BCHW.std(dim=(0, 2, 3)).tolist(),
        "posterior_std": std_BCHW.mean(dim=(0, 2, 3)).tolist(),
    }
    record = json.dumps({**quality, **latents}, indent=2, sort_keys=True) + "\n"
    write_bytes(folder / "metrics.json", record.encode())
    chosen = _spread(len(originals_NHWC), _PICTURED)
    picture = comparison_picture(originals_NHWC[chosen], reconstructions_NHWC[chosen])
    write_bytes(folder / "reconstructions.png", picture)
    few_NHWC = originals_NHWC[_spread(len(originals_NHWC), _TURNED)]
    turned = equivariance(network, few_NHWC, batch=_BATCH)
    return {**quality, "equivariance": json.loads(json.dumps(asdict(turned)))}


@torch.no_grad()
def _distances(distance: PerceptualDistance, *pictures_NHWC: npt.NDArray[np.uint8]) -> list[float]:
    device = distance.shift_C11.device
    decoded_BCHW, clean_BCHW = (
        signed_pixels(torch.from_numpy(part).permute(0, 3, 1, 2).to(device))
        for part in pictures_NHWC
    )
    found: list[float] = distance(decoded_BCHW, clean_BCHW).tolist()
    return found


def _spread(total: int, count: int) -> npt.NDArray[np.int64]:
    """At most ``count`` of ``total`` numbers, evenly."""
    return np.linspace(0, total - 1, min(count, total)).astype(np.int64)
