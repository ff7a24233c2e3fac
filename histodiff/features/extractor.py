"""Feature vectors of images: one loop over batches, whatever network makes them.

An ``Extractor`` says which network it is, with a digest of its weights: figures in features of
different extractors, or after another resize, cannot be compared.

Legend of suffixes: G symmetries, N images, B batch, H height, W width, C channels, D features.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from histodiff.models.classifier import Classifier
from histodiff.runtime.symmetries import GROUPS, Symmetries, square_symmetry
from histodiff.telemetry import progress

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Extractor:
    """A network that turns images into vectors."""

    name: str
    """What it is, in words."""
    weights_sha256: str
    """Digest of its weights."""
    input_px: int
    """Side that every image is resized to."""
    device: str
    features: Callable[[Tensor], Tensor]
    """Of float pixels ``(B, 3, input_px, input_px)`` in 0..255, features ``(B, D)``."""


def extracted_features(
    extractor: Extractor,
    blocks: Iterable[Pixels],
    *,
    total: int,
    batch: int,
    symmetries: Symmetries = "none",
) -> npt.NDArray[np.float32]:
    """Features ``(G, N, D)`` of uint8 images of any size, under every member of a group.

    Args:
        extractor: The network.
        blocks: Images ``(n, H, W, 3)``, a few at a time; only one block is held.
        total: Images of all blocks, for the progress bar.
        batch: Images of one forward pass.
        symmetries: The group of symmetries; its first member is the identity.
    """
    group = GROUPS[symmetries]
    found: list[list[npt.NDArray[np.float32]]] = [[] for _ in group]
    with progress("features", total=total * len(group), unit="images") as bar:
        for block_NHWC in blocks:
            for parts, which in zip(found, group, strict=True):
                turned_NHWC = np.ascontiguousarray(square_symmetry(block_NHWC, which))
                for pixels_BCHW in _batches(turned_NHWC, batch=batch, device=extractor.device):
                    parts.append(_features(extractor, pixels_BCHW))
                    bar.advance(len(pixels_BCHW))
    return np.stack([np.concatenate(parts) for parts in found])


@torch.no_grad()
def image_features(
    classifier: Classifier, pixels_NHWC: Pixels, *, batch: int, device: str
) -> npt.NDArray[np.float32]:
    """Features ``(N, D)`` of uint8 images before a classifier's logits; sets evaluation mode."""
    classifier.eval()
    parts = []
    with progress("features", total=len(pixels_NHWC), unit="images") as bar:
        for pixels_BCHW in _batches(pixels_NHWC, batch=batch, device=device):
            parts.append(classifier.features(pixels_BCHW).cpu().numpy())
            bar.advance(len(pixels_BCHW))
    return np.concatenate(parts)


def resized(pixels_BCHW: Tensor, *, side: int) -> Tensor:
    """Float pixels 0..255 of one side: bilinear, with a low-pass filter where it shrinks.

    Resizing without that filter moves a Frechet distance more than generators do (Parmar et al.
    2022, arXiv 2104.11222).
    """
    values = pixels_BCHW.float()
    if values.shape[-2:] == (side, side):
        return values
    return nn.functional.interpolate(values, size=(side, side), mode="bilinear", antialias=True)


def _batches(pixels_NHWC: Pixels, *, batch: int, device: str) -> Iterator[Tensor]:
    """uint8 ``(B, C, H, W)``."""
    for start in range(0, len(pixels_NHWC), batch):
        yield torch.from_numpy(pixels_NHWC[start : start + batch]).to(device).permute(0, 3, 1, 2)


@torch.no_grad()
def _features(extractor: Extractor, pixels_BCHW: Tensor) -> npt.NDArray[np.float32]:
    features_BD = extractor.features(resized(pixels_BCHW, side=extractor.input_px))
    found: npt.NDArray[np.float32] = features_BD.float().cpu().numpy()
    return found
