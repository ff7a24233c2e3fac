"""The guide's network: a classifier of noisy whitened latents that knows the noise level.

A small residual encoder; the noise level enters every block by scale and shift, attention mixes
positions at the lowest resolution, a mean over positions gives the logits. It is trained on
``x0 + sigma n`` for the sigmas it will meet in sampling (reference: Dhariwal & Nichol 2021, Sec.
4.1). Legend: B batch, C channels, H height, W width of a latent, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from pydantic import Field, model_validator
from torch import Tensor, nn

from histodiff.config import Config
from histodiff.errors import ArtifactCorrupt
from histodiff.kernels.attention import install_attention
from histodiff.models.weights import fill, module_dtype, read_model, save_model
from histodiff.storage import StoragePath

_MODEL = "guide"
_SMALLEST_SIGMA = 1e-3
"""Noise levels below this one (zero, for clean latents) are told to the network as this one."""


class LatentClassifierConfig(Config):
    """Size and shape of the latent classifier."""

    channels: tuple[int, ...] = Field(min_length=1)
    """Channels of each level, halving the resolution from one to the next."""
    blocks_per_level: int = Field(default=1, ge=1)
    """Residual blocks of each level."""
    head_dim: int = Field(default=16, ge=1)
    """Width of an attention head at the lowest resolution."""
    norm_groups: int = Field(default=8, ge=1)
    """Groups of the group normalisation."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout in residual blocks and before the logits."""

    @model_validator(mode="after")
    def _divisible(self) -> "LatentClassifierConfig":
        for width in self.channels:
            if width % self.norm_groups:
                raise ValueError(
                    f"channels {width} must be a multiple of norm_groups ({self.norm_groups})"
                )
        if self.channels[-1] % self.head_dim:
            raise ValueError(
                f"the last of channels ({self.channels[-1]}) must be a multiple of head_dim"
                f" ({self.head_dim})"
            )
        return self


class LatentClassifier(nn.Module):
    """Logits of the classes given a noisy whitened latent and its noise level."""

    def __init__(
        self,
        config: LatentClassifierConfig,
        *,
        latent_channels: int,
        num_classes: int,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self.config = config
        self.latent_channels = latent_channels
        self.num_classes = num_classes
        first, last = config.channels[0], config.channels[-1]
        width = 4 * first
        self.noise_projection = Timesteps(first, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.noise_embedding = TimestepEmbedding(first, width)
        self.stem = nn.Conv2d(latent_channels, first, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList(_residual_blocks(config, width))
        self.mix = Attention(
            last, heads=last // config.head_dim, dim_head=config.head_dim, bias=True,
            norm_num_groups=config.norm_groups, residual_connection=True,
        )  # fmt: skip
        self.norm = nn.GroupNorm(config.norm_groups, last)
        self.dropout = nn.Dropout(config.dropout)
        self.logits = nn.Linear(last, num_classes)
        self.to(device)
        install_attention(self, "auto", device=torch.device(device))

    def forward(self, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """Logits of shape (B, K), fp32.

        Args:
            x_BCHW: ``x0 + sigma n`` with whitened ``x0``.
            sigma_B: Noise levels; 0 for clean latents.
        """
        sigma_B = sigma_B.float()
        # unit variance whatever the noise: Karras et al. 2022, Table 1, c_in with sigma_data = 1
        scale_B111 = (sigma_B**2 + 1).rsqrt().reshape(-1, 1, 1, 1)
        dtype = module_dtype(self)
        hidden = self.stem((x_BCHW.float() * scale_B111).to(dtype))
        noise = self.noise_projection(sigma_B.clamp_min(_SMALLEST_SIGMA).log() * (100 / 4))
        embedding = self.noise_embedding(noise.to(dtype))
        for block in self.blocks:
            hidden = block(hidden, embedding)
        hidden = nn.functional.silu(self.norm(self.mix(hidden)))
        logits_BK: Tensor = self.logits(self.dropout(hidden.mean(dim=(2, 3))))
        return logits_BK.float()


def _residual_blocks(config: LatentClassifierConfig, noise_width: int) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    before = config.channels[0]
    for level, width in enumerate(config.channels):
        for number in range(config.blocks_per_level):
            blocks.append(
                ResnetBlock2D(
                    in_channels=before,
                    out_channels=width,
                    temb_channels=noise_width,
                    groups=config.norm_groups,
                    dropout=config.dropout,
                    time_embedding_norm="scale_shift",
                    down=level > 0 and number == 0,
                )
            )
            before = width
    return blocks


@dataclass(frozen=True)
class LoadedLatentClassifier:
    """A latent classifier ready for use."""

    classifier: LatentClassifier
    classes: tuple[str, ...]
    """Label of each logit."""
    description: Mapping[str, Any]
    """All that its description says."""


def save_latent_classifier(
    path: StoragePath,
    classifier: LatentClassifier,
    *,
    classes: tuple[str, ...],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes the guide into the folder ``path``; ``extra`` goes into its description."""
    assert len(classes) == classifier.num_classes
    save_model(
        path,
        model=_MODEL,
        state=classifier.state_dict(),
        description={
            **(extra or {}),
            "config": classifier.config.model_dump(mode="json"),
            "latent_channels": classifier.latent_channels,
            "classes": list(classes),
        },
    )


def load_latent_classifier(path: StoragePath, device: str) -> LoadedLatentClassifier:
    """The guide saved in ``path``, in evaluation mode, frozen.

    Raises:
        ArtifactNotFound: There is none.
        ArtifactCorrupt: It is damaged.
    """
    stored = read_model(path, model=_MODEL)
    try:
        config = LatentClassifierConfig.model_validate(stored.description["config"])
        classes = tuple(stored.description["classes"])
        latent_channels = int(stored.description["latent_channels"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{path}: its description is not a guide's: {error}") from error
    classifier = LatentClassifier(
        config, latent_channels=latent_channels, num_classes=len(classes), device=device
    )
    fill(classifier, stored, path=path)
    classifier = classifier.eval().requires_grad_(requires_grad=False)
    return LoadedLatentClassifier(classifier, classes, stored.description)
