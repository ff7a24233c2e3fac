"""What a rank of autoencoder training needs to know: one picklable value, equal on every rank."""

from collections.abc import Mapping
from dataclasses import dataclass

from histodiff.artifacts import UnitIssue
from histodiff.models.perceptual import Lpips, RandomFeatures
from histodiff.pretraining.autoencoder.config import AutoencoderTraining, DecoderTraining
from histodiff.telemetry import HubAddress


@dataclass(frozen=True)
class AutoencoderSpec:
    """Everything about one run."""

    run: str
    """Name of the run in metrics."""
    artifact: str
    """Folder or URL of the artifact that is written."""
    indexes: tuple[str, ...]
    """Folders or URLs of the PatchIndexes."""
    targets: Mapping[str, str]
    """Folders or URLs of PatchIndexes that are only measured on, by reference."""
    training: AutoencoderTraining | DecoderTraining
    """What is trained, and how."""
    source: str | None
    """Folder or URL of the autoencoder whose decoder is trained; None trains a new one."""
    label_of: Mapping[int, int]
    """Number of the label, by patch, for an auxiliary classifier: those that it may see."""
    num_classes: int
    """Labels that it tells apart."""
    num_held_out: int
    """At most this many validation patches are measured afterwards."""
    perceptual: RandomFeatures | Lpips
    """Measures the distance of reconstructions."""
    seed: int
    threads: int
    device: str
    hub: HubAddress | None
    """Where ranks announce their metrics."""


@dataclass(frozen=True)
class TrainedOutcome:
    """How the training ended."""

    images_seen: int
    failed: tuple[UnitIssue, ...]
    """Training patches that could not be read."""
