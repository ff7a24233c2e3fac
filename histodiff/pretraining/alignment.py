"""Representation alignment: a middle layer is pulled towards a frozen denoiser's features.

REPA (Yu et al. 2025, arXiv 2410.06940) takes features of a vision model on clean pixels. Training
here sees latents only, so the target is a Denoiser that was trained before on the same encoder,
shown the clean latent at a low noise level: a function of the sample, so that alignment draws
nothing. Legend: B batch, C channels, F features, H height, W width.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, cosine_similarity

from histodiff.artifacts import Reference
from histodiff.config import Config, Location
from histodiff.errors import ConfigError
from histodiff.latents import Whitening
from histodiff.models.denoiser import Denoiser, load_denoiser
from histodiff.models.layer_features import LayerFeatures, Projection, layer_shape
from histodiff.storage import storage_path


class AlignmentTarget(Config):
    """Features of a finished denoiser, which stays as it is."""

    denoiser: Annotated[Reference, Location()]
    """The denoiser; of the same encoder and patch size."""
    snapshot: str = "last"
    """Which of its snapshots."""
    layer: str
    """Layer of its network: `mid_block`, `down_blocks.1`, `up_blocks.0`; `blocks.3` of a `dit`."""
    sigma: float = Field(gt=0)
    """Noise level that it is told; it is shown the clean latent."""


class AlignmentConfig(Config):
    """An auxiliary loss: minus the cosine of projected features and the target's, by position."""

    weight: float = Field(gt=0)
    """Weight beside the objective's loss; 0.5 in the paper."""
    layer: str
    """Layer of the network that is aligned; early or middle ones in the paper."""
    width: int = Field(ge=1)
    """Inner width of the projection."""
    target: AlignmentTarget
    """What it is aligned with."""


@dataclass(frozen=True)
class AlignmentSpec:
    """What a rank needs to know of it."""

    config: AlignmentConfig
    snapshot: str
    """Folder or URL of the target's snapshot."""


class Alignment:
    """The auxiliary loss, with its frozen target. Gives ``denoiser`` its projection.

    Raises:
        ConfigError: A layer does not exist, or the target is of other latents.
    """

    def __init__(
        self, spec: AlignmentSpec, denoiser: Denoiser, *, whitening: Whitening, encoder_sha256: str,
        device: str,
    ) -> None:  # fmt: skip
        config = spec.config
        loaded = load_denoiser(storage_path(spec.snapshot), device=device)
        if (loaded.encoder_sha256, loaded.latent_shape) != (encoder_sha256, denoiser.latent_shape):
            raise ConfigError(
                f"alignment.target.denoiser={config.target.denoiser}: is of another encoder or"
                " another size of latents; give one that was trained on these"
            )
        self.weight = config.weight
        self._sigma = config.target.sigma
        self._whitening = whitening
        self._theirs = Whitening(loaded.whitening_mean, loaded.whitening_scale)
        self._target = loaded.denoiser
        self._features = LayerFeatures(
            self._target.network, config.target.layer, field="alignment.target.layer"
        )
        target = _shape_of(self._target, self._features)
        features = LayerFeatures(denoiser.network, config.layer, field="alignment.layer")
        own = _shape_of(denoiser, features)
        denoiser.project(
            features,
            Projection(own[0], width=config.width, num_targets=target[0]).to(device),
        )

    def loss(self, clean_BCHW: Tensor, projected_BFHW: Tensor) -> Tensor:
        """Minus the mean cosine over positions, those of the coarser grid of the two."""
        target_BFHW = self._target_features(clean_BCHW)
        (height, width), other = projected_BFHW.shape[2:], target_BFHW.shape[2:]
        grid = (min(height, other[0]), min(width, other[1]))
        ours_BFHW = adaptive_avg_pool2d(projected_BFHW.float(), grid)
        theirs_BFHW = adaptive_avg_pool2d(target_BFHW, grid)
        return -cosine_similarity(ours_BFHW, theirs_BFHW, dim=1).mean()

    @torch.no_grad()
    def _target_features(self, clean_BCHW: Tensor) -> Tensor:
        theirs_BCHW = self._theirs.apply(self._whitening.invert(clean_BCHW))
        self._target(theirs_BCHW, clean_BCHW.new_full((len(clean_BCHW),), self._sigma))
        return self._features.take().float()


def _shape_of(denoiser: Denoiser, features: LayerFeatures) -> torch.Size:
    channels, height, width = denoiser.latent_shape
    shape = (denoiser.config.input_channels(channels), height, width)
    return layer_shape(denoiser.network, features, input_shape=shape)
