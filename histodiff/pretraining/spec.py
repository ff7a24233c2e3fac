"""What a rank of pre-training needs to know: one picklable value, the same on every rank."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from histodiff.config import Config
from histodiff.latents import ScalingConfig, SlabCache, View, Whitening
from histodiff.models.denoiser import DenoiserConfig
from histodiff.models.pretrained import UNetSource
from histodiff.pretraining.alignment import AlignmentSpec
from histodiff.runtime.symmetries import Symmetries
from histodiff.telemetry import HubAddress
from histodiff.training import TrainConfig


class ValidationConfig(Config):
    """Validation loss by noise level, on rows of the split `val` with fixed noise."""

    images: int = Field(ge=1)
    """Validation rows, spread evenly over the stores (fewer if there are not as many)."""
    bins: int = Field(default=4, ge=1)
    """Noise levels: middles of equal shares of the training distribution of sigma."""
    every_images: int = Field(ge=1)
    """Every how many training images it is measured; always at the end as well."""


PreviewMeasure = Callable[[npt.NDArray[np.uint8], npt.NDArray[np.uint8]], dict[str, Any]]
"""What is said of samples beside real images, uint8 ``(N, H, W, 3)`` each, ready for JSON."""


@dataclass(frozen=True)
class PreviewQuality:
    """Measures at preview times; ``measure`` travels to the ranks, so it must be picklable."""

    samples: int
    """Samples that are drawn, and validation rows at most that they are compared with."""
    measure: PreviewMeasure


@dataclass(frozen=True)
class StoreShare:
    """One latent store of the mixture: where it lies, and its share of the draws."""

    url: str
    weight: float


@dataclass(frozen=True)
class PretrainSpec:
    """Everything about one run of pre-training."""

    run: str
    """Name of the run in metrics."""
    artifact: str
    """Folder or URL of the artifact that is written."""
    stores: tuple[StoreShare, ...]
    whitening: Whitening
    """Of the mixture, computed once, before the ranks begin."""
    scaling: ScalingConfig
    """The rule that made it."""
    view: View
    symmetries: Symmetries
    num_lanes: int
    denoiser: DenoiserConfig
    init: UNetSource | None
    """Weights to start from; None draws them."""
    init_sha256: str | None
    """Digest of those weights' files, equal on every rank."""
    train: TrainConfig
    validation: ValidationConfig | None
    snapshot_images: int | None
    """Every how many images an EMA snapshot is kept; None keeps the last only."""
    seed: int
    threads: int
    device: str
    cache: SlabCache | None
    """Local disk for slabs of remote stores."""
    hub: HubAddress | None
    """Where ranks announce their metrics."""
    gaussian: str | None = None
    """File or URL of the Gaussian that the denoiser starts from; None where it does not."""
    alignment: AlignmentSpec | None = None
    """What a layer is aligned with; None aligns nothing."""
    peak_flops: float | None = None
    """Peak FLOP/s of a rank's device as the site gives it."""
    preview_images: int | None = None
    """Every how many images a sample grid is drawn; None draws none."""
    preview_autoencoder: str | None = None
    """Folder or URL of the autoencoder that decodes the grids; None shows latents."""
    preview_quality: PreviewQuality | None = None
    """What is measured at preview times; None measures nothing."""


@dataclass(frozen=True)
class Speed:
    """How fast training is, over the steps since the row of metrics before."""

    images_per_second: float
    """All ranks."""
    data_wait_share: float
    """Share of the time that this rank waited for data."""
    mfu: float | None
    """Of this rank, 0 to 1; None where the peak of the device is not known."""


@dataclass(frozen=True)
class TrainingProgress:
    """What a rank tells the driver while it trains."""

    images_seen: int
    loss: float
    speed: Speed | None = None
    """Of the last row of metrics; None before the first."""

    @property
    def fields(self) -> dict[str, float]:
        """What stands behind the rate in the progress display."""
        if self.speed is None:
            return {"loss": self.loss}
        mfu = {} if self.speed.mfu is None else {"mfu": self.speed.mfu}
        return {"loss": self.loss, **mfu, "data_wait": self.speed.data_wait_share}


@dataclass(frozen=True)
class PretrainResult:
    """How the training ended."""

    images_seen: int
    final_loss: float
    """Mean training loss since the last row of metrics."""
    validation_loss: float | None
    """Mean over the noise levels at the end."""
    num_parameters: int
    encoder_sha256: str
    init_sha256: str | None
    """Digest of the weights that it started from; None for random ones."""
    forward_flops_per_image: int
    training_flops_per_image: int
    """Forward and backward."""
    attention: dict[str, Any]
    """Which attention kernel really ran: fields of ``AttentionReport``."""
