"""Measures at preview times of a training: cheap, without floor or interval, for a curve.

Kernel and Frechet distance of some hundred samples to decoded validation rows. The features of the
validation rows are made once. Numbers of ``synthesize`` are in pixels of real patches, so they are
higher and cannot be compared with these.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from histodiff.config import Config
from histodiff.errors import ConfigError
from histodiff.evaluation.quality.frechet import frechet_distance, moments
from histodiff.evaluation.quality.kernel import KernelDistance
from histodiff.features.extractor import Extractor, extracted_features
from histodiff.features.kinds import RandomExtractor, TimmExtractor
from histodiff.models.classifier import FileWeights
from histodiff.workflows.quality.extractors import open_extractor
from histodiff.workflows.quality.measuring import described

Pixels = npt.NDArray[np.uint8]


class PreviewQualityConfig(Config):
    """What is measured at preview times."""

    extractor: Annotated[TimmExtractor | RandomExtractor, Field(discriminator="type")]
    """Network whose features are compared: `timm` or `random_features`."""
    samples: int = Field(default=512, ge=32)
    """Samples that are drawn each time, in 18 steps of Heun's method (35 calls of the denoiser)."""
    batch: int = Field(default=64, ge=1)
    """Images per forward pass of the extractor."""


@dataclass
class PreviewMeasurement:
    """Distances of samples to real images; picklable, the network is made where it is used."""

    config: PreviewQualityConfig
    device: str
    _extractor: Extractor | None = field(default=None, init=False)
    _real_ND: npt.NDArray[np.float32] | None = field(default=None, init=False)

    def __call__(self, samples_NHWC: Pixels, real_NHWC: Pixels) -> dict[str, Any]:
        """Both distances, with counts and the extractor; real images are the same every time."""
        if self._extractor is None or self._real_ND is None:
            self._extractor = open_extractor(self.config.extractor, {}, device=self.device)
            self._real_ND = self._features(self._extractor, real_NHWC)
        samples_ND = self._features(self._extractor, samples_NHWC)
        return {
            "kernel_distance": KernelDistance.of(samples_ND, self._real_ND).value(),
            "frechet_distance": frechet_distance(moments(samples_ND), moments(self._real_ND)),
            "num_images": len(samples_ND),
            "num_real": len(self._real_ND),
            **described(self._extractor),
        }

    def _features(self, extractor: Extractor, pixels_NHWC: Pixels) -> npt.NDArray[np.float32]:
        features_GND = extracted_features(
            extractor, [pixels_NHWC], total=len(pixels_NHWC), batch=self.config.batch
        )
        return np.asarray(features_GND[0])


def preview_measurement(
    config: PreviewQualityConfig, *, autoencoder: str | None, device: str
) -> PreviewMeasurement:
    """What the ranks are given.

    Raises:
        ConfigError: There is no autoencoder, or the extractor cannot be made: told before training.
    """
    if autoencoder is None:
        raise ConfigError(
            "preview_quality: the autoencoder of the latents is not in this root, and latents have"
            " no pixels to measure; pull it, or set preview_quality: null"
        )
    extractor = config.extractor
    if isinstance(extractor, TimmExtractor) and isinstance(extractor.pretrained, FileWeights):
        place = str(Path(extractor.pretrained.path).resolve())  # ranks run in other folders
        weights = extractor.pretrained.model_copy(update={"path": place})
        extractor = extractor.model_copy(update={"pretrained": weights})
    open_extractor(extractor, {}, device="cpu")
    return PreviewMeasurement(config.model_copy(update={"extractor": extractor}), device)
