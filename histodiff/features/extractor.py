"""Feature vectors of images from the last layer of a classifier before its logits."""

import numpy as np
import numpy.typing as npt
import torch

from histodiff.models.classifier import Classifier
from histodiff.telemetry import progress


@torch.no_grad()
def image_features(
    classifier: Classifier, pixels_NHWC: npt.NDArray[np.uint8], *, batch: int, device: str
) -> npt.NDArray[np.float32]:
    """Features ``(N, D)`` of uint8 images, float32; sets evaluation mode."""
    classifier.eval()
    parts = []
    with progress("features", total=len(pixels_NHWC), unit="images") as bar:
        for start in range(0, len(pixels_NHWC), batch):
            pixels_BHWC = torch.from_numpy(pixels_NHWC[start : start + batch]).to(device)
            parts.append(classifier.features(pixels_BHWC.permute(0, 3, 1, 2)).cpu().numpy())
            bar.advance(len(pixels_BHWC))
    return np.concatenate(parts)
