"""A small head on the features of a frozen denoiser: logits of noisy latents.

Diffusion networks know what they denoise: a few labels on their features go further than a network
trained on the labels alone (Baranchuk et al. 2022, arXiv 2112.03126; as a guide: Graikos et al.
2023, arXiv 2306.01900). Of every chosen layer the mean and the deviation over positions are taken.
Legend: B batch, C channels, H height, W width, N latents, D features, K classes.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from histodiff.config import Config
from histodiff.errors import ArtifactCorrupt
from histodiff.models.denoiser import Denoiser
from histodiff.models.layer_features import LayerFeatures
from histodiff.models.weights import fill, read_model, save_model
from histodiff.storage import StoragePath

MODEL = "feature-guide"
_SMALLEST_SIGMA = 1e-3
_FREQUENCIES = 8
_TINY = 1e-6


class FeatureHeadConfig(Config):
    """Which features, and the size of the head."""

    type: Literal["perceptron"] = "perceptron"
    """Trained step by step, with one head for all noise levels."""
    layers: tuple[str, ...] = Field(min_length=1)
    """Layers of the denoiser's network, such as `down_blocks.1`, `mid_block`, `up_blocks.0`, or
    `blocks.3` of a transformer."""
    width: int = Field(default=32, ge=0)
    """Hidden units; 0 is a linear head."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout of the features."""


class DenoiserFeatures:
    """Features of noisy whitened latents: (B, D), with a gradient to the latent.

    Raises:
        ConfigError: The network has no such layer.
    """

    def __init__(
        self, denoiser: Denoiser, layers: tuple[str, ...], *, field: str = "kind.network.layers"
    ) -> None:
        self._denoiser = denoiser
        self._layers = [LayerFeatures(denoiser.network, layer, field=field) for layer in layers]
        shape = denoiser.latent_shape
        with torch.no_grad():
            device = next(denoiser.parameters()).device
            parts = self._by_layer(
                torch.zeros((1, *shape), device=device), torch.ones(1, device=device)
            )
        ends = list(accumulate((part.shape[1] for part in parts), initial=0))
        self.num_features = ends[-1]
        self.columns = {
            name: slice(*bounds) for name, bounds in zip(layers, pairwise(ends), strict=True)
        }
        """Where the features of each layer are."""

    def __call__(self, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """Mean and deviation over positions of every layer, fp32."""
        return torch.cat(self._by_layer(x_BCHW, sigma_B), dim=1)

    def _by_layer(self, x_BCHW: Tensor, sigma_B: Tensor) -> list[Tensor]:
        self._denoiser(x_BCHW, sigma_B)
        parts = []
        for layer in self._layers:  # every layer must be taken, or it would be kept
            features = layer.take().float().flatten(2)
            deviation = (features.var(dim=2, unbiased=False) + _TINY).sqrt()
            parts.append(torch.cat([features.mean(dim=2), deviation], dim=1))
        return parts


class FeatureHead(nn.Module):
    """Logits of features and their noise level."""

    mean_D: Tensor
    scale_D: Tensor
    frequency_F: Tensor

    def __init__(self, config: FeatureHeadConfig, *, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_features = num_features
        self.num_classes = num_classes
        self.register_buffer("mean_D", torch.zeros(num_features))
        self.register_buffer("scale_D", torch.ones(num_features))
        steps = torch.arange(_FREQUENCIES, dtype=torch.float32)
        self.register_buffer("frequency_F", 0.25 * 1.5**steps, persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        out = config.width or num_classes
        self.features = nn.Linear(num_features, out)
        self.noise = nn.Linear(2 * _FREQUENCIES, out, bias=False)
        self.logits = nn.Linear(out, num_classes) if config.width else nn.Identity()

    def standardise(self, features_ND: Tensor) -> None:
        """Takes mean and scale of these features for those of all."""
        self.mean_D.copy_(features_ND.mean(dim=0))
        self.scale_D.copy_(features_ND.std(dim=0).clamp_min(_TINY))

    def forward(self, features_BD: Tensor, sigma_B: Tensor) -> Tensor:
        """Logits (B, K), fp32."""
        standard_BD = self.dropout((features_BD - self.mean_D) / self.scale_D)
        angle_BF = sigma_B.float().clamp_min(_SMALLEST_SIGMA).log()[:, None] * self.frequency_F
        hidden = self.features(standard_BD) + self.noise(
            torch.cat([angle_BF.sin(), angle_BF.cos()], dim=1)
        )
        if self.config.width:
            hidden = nn.functional.silu(hidden)
        logits_BK: Tensor = self.logits(hidden)
        return logits_BK


@dataclass(frozen=True)
class LoadedFeatureHead:
    """A head ready for use."""

    head: FeatureHead
    classes: tuple[str, ...]
    """Label of each logit."""
    snapshot: str
    """EMA snapshot of the denoiser whose features it reads."""


def save_feature_head(
    path: StoragePath, head: FeatureHead, *, classes: tuple[str, ...], snapshot: str
) -> None:
    """Writes the head into the folder ``path``."""
    assert len(classes) == head.num_classes
    save_model(
        path,
        model=MODEL,
        state=head.state_dict(),
        description={
            "config": head.config.model_dump(mode="json"),
            "num_features": head.num_features,
            "classes": list(classes),
            "snapshot": snapshot,
        },
    )


def load_feature_head(path: StoragePath, device: str) -> LoadedFeatureHead:
    """The head saved in ``path``, in evaluation mode, frozen.

    Raises:
        ArtifactNotFound: There is none.
        ArtifactCorrupt: It is damaged.
    """
    stored = read_model(path, model=MODEL)
    try:
        config = FeatureHeadConfig.model_validate(stored.description["config"])
        classes = tuple(stored.description["classes"])
        num_features = int(stored.description["num_features"])
        snapshot = str(stored.description["snapshot"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{path}: its description is not a guide's: {error}") from error
    head = FeatureHead(config, num_features=num_features, num_classes=len(classes))
    fill(head, stored, path=path)
    head = head.to(device).eval().requires_grad_(requires_grad=False)
    return LoadedFeatureHead(head, classes, snapshot)
