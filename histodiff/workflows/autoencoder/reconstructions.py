"""What is measured of an autoencoder on held-out patches, and written beside it."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histodiff.evaluation.equivariance import equivariance
from histodiff.evaluation.reconstruction import (
    OWN_PICTURE,
    comparison_picture,
    reconstruction_quality,
    target_picture,
)
from histodiff.models.autoencoder import Autoencoder, signed_pixels
from histodiff.models.perceptual import (
    Lpips,
    PerceptualDistance,
    RandomFeatures,
    perceptual_distance,
)
from histodiff.storage import StoragePath, write_bytes
from histodiff.telemetry import progress

_Given = TypeVar("_Given")
_BATCH = 16
_PICTURED = 16
_TURNED = 32
"""Held-out patches on which equivariance is measured: 15 passes over them."""


@dataclass(frozen=True)
class Measured:
    """What is said of an autoencoder, and what of the machine that measured it."""

    quality: dict[str, Any]
    """For the manifest's contents."""
    images_per_second: dict[str, float]
    """Of `encode` and of `decode`; a wall time, so no part of any content."""


@dataclass
class _Clock:
    """Seconds of calls beside the first, which sets things up; of that one if it is alone."""

    device: str
    seconds: list[tuple[int, float]] = field(default_factory=list)

    def timed(self, work: Callable[[Tensor], _Given], given: Tensor) -> _Given:
        started = self._now()
        result = work(given)
        self.seconds.append((len(given), self._now() - started))
        return result

    def images_per_second(self) -> float:
        kept = self.seconds[1:] or self.seconds
        return sum(images for images, _ in kept) / sum(seconds for _, seconds in kept)

    def _now(self) -> float:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()


def measured(
    network: Autoencoder,
    originals_NHWC: npt.NDArray[np.uint8],
    folder: StoragePath,
    *,
    perceptual: RandomFeatures | Lpips,
) -> Measured:
    """Writes ``metrics.json`` and ``reconstructions.png``; returns what is said of it."""
    device = str(network.network.device)
    distance = perceptual_distance(perceptual, device=device)
    clocks = {"encode": _Clock(device), "decode": _Clock(device)}
    distances: list[float] = []
    decoded, means, stds = [], [], []
    with progress("measure", total=len(originals_NHWC), unit="patches") as bar:
        for start in range(0, len(originals_NHWC), _BATCH):
            part_NHWC = originals_NHWC[start : start + _BATCH]
            pixels_BCHW = torch.from_numpy(part_NHWC).permute(0, 3, 1, 2)
            moments = clocks["encode"].timed(network.encode, pixels_BCHW)
            shown_BCHW = clocks["decode"].timed(network.decode, moments.mean)
            decoded.append(shown_BCHW.permute(0, 2, 3, 1).cpu().numpy())
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
    write_bytes(folder / OWN_PICTURE, picture)
    few_NHWC = originals_NHWC[_spread(len(originals_NHWC), _TURNED)]
    turned = equivariance(network, few_NHWC, batch=_BATCH)
    return Measured(
        {**quality, "equivariance": json.loads(json.dumps(asdict(turned)))},
        {name: round(clock.images_per_second(), 3) for name, clock in clocks.items()},
    )


def measured_on_targets(
    network: Autoencoder,
    originals: Mapping[str, npt.NDArray[np.uint8]],
    folder: StoragePath,
    *,
    perceptual: RandomFeatures | Lpips,
) -> dict[str, Any]:
    """Quality on the patches of each target, by its reference; writes a picture of each.

    Args:
        network: The autoencoder.
        originals: uint8 patches NHWC, by reference.
        folder: Where ``reconstructions-<name>.png`` are written.
        perceptual: The network that measures the perceptual distance.
    """
    distance = perceptual_distance(perceptual, device=str(network.network.device))
    found = {}
    for reference, originals_NHWC in originals.items():
        decoded_NHWC = _reconstructed(network, originals_NHWC)
        found[reference] = {
            **asdict(reconstruction_quality(originals_NHWC, decoded_NHWC)),
            "perceptual_distance": float(
                np.mean(_distances(distance, decoded_NHWC, originals_NHWC))
            ),
        }
        chosen = _spread(len(originals_NHWC), _PICTURED)
        picture = comparison_picture(originals_NHWC[chosen], decoded_NHWC[chosen])
        write_bytes(folder / target_picture(reference), picture)
    return found


def _reconstructed(
    network: Autoencoder, originals_NHWC: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    decoded = []
    for part_BHWC in torch.split(torch.from_numpy(originals_NHWC), _BATCH):
        mean_BCHW = network.encode(part_BHWC.permute(0, 3, 1, 2)).mean
        decoded.append(network.decode(mean_BCHW).permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(decoded)


def _mean_distance(
    distance: PerceptualDistance,
    decoded_NHWC: npt.NDArray[np.uint8],
    originals_NHWC: npt.NDArray[np.uint8],
) -> float:
    return float(np.mean(_distances(distance, decoded_NHWC, originals_NHWC)))


@torch.no_grad()
def _distances(distance: PerceptualDistance, *pictures_NHWC: npt.NDArray[np.uint8]) -> list[float]:
    device = distance.shift_C11.device
    found: list[float] = []
    parts = [torch.split(torch.from_numpy(pictures), _BATCH) for pictures in pictures_NHWC]
    for pair in zip(*parts, strict=True):
        decoded_BCHW, clean_BCHW = (
            signed_pixels(part.permute(0, 3, 1, 2).to(device)) for part in pair
        )
        found += distance(decoded_BCHW, clean_BCHW).tolist()
    return found


def _spread(total: int, count: int) -> npt.NDArray[np.int64]:
    """At most ``count`` of ``total`` numbers, evenly."""
    return np.linspace(0, total - 1, min(count, total)).astype(np.int64)
