"""Architectures of autoencoders that are trained here, as typed config: a union by ``type``."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from histodiff.config import Config


class KlArchitecture(Config):
    """Size and shape of a KL autoencoder; the downsampling is ``2 ** (levels - 1)``."""

    type: Literal["kl"]
    channels: tuple[int, ...] = Field(min_length=2)
    """Channels of each level, from full resolution downwards, halving it each time."""
    latent_channels: int = Field(ge=1)
    """Channels of a latent."""
    blocks_per_level: int = Field(default=2, ge=1)
    """Residual blocks of each level in the encoder (one more in the decoder)."""
    norm_groups: int = Field(default=32, ge=1)
    """Groups of the group normalisation."""
    mid_attention: bool = True
    """Self-attention at the lowest resolution."""

    @model_validator(mode="after")
    def _divisible(self) -> "KlArchitecture":
        for width in self.channels:
            if width % self.norm_groups:
                raise ValueError(
                    f"channels {width} must be a multiple of norm_groups ({self.norm_groups})"
                )
        return self


class PatchArchitecture(Config):
    """Size of an autoencoder that starts as the best linear map and works on patches of pixels.

    It trains 5 to 10 times as many images in a second of a CPU as a `kl` network.
    """

    type: Literal["patch"]
    downsampling: int = Field(ge=2, le=32)
    """Pixels per latent position along one side."""
    latent_channels: int = Field(ge=1)
    """Channels of a latent; ``3 * downsampling ** 2`` lose nothing."""
    width: int = Field(default=96, ge=8)
    """Channels of the residual blocks."""
    encoder_blocks: int = Field(default=2, ge=0)
    """Residual blocks of the encoder; 0 leaves it linear."""
    decoder_blocks: int = Field(default=3, ge=0)
    """Residual blocks of the decoder; 0 leaves it linear."""
    posterior_std: float = Field(default=0.02, gt=0)
    """Noise of every raw latent value, of pixels in -1..1: what the decoder learns to bear."""

    @model_validator(mode="after")
    def _not_wider(self) -> "PatchArchitecture":
        most = 3 * self.downsampling**2
        if self.latent_channels > most:
            raise ValueError(
                f"latent_channels ({self.latent_channels}) is more than a block of"
                f" {self.downsampling}x{self.downsampling} px has values ({most}); give fewer"
            )
        return self


AutoencoderArchitecture: TypeAlias = Annotated[
    KlArchitecture | PatchArchitecture, Field(discriminator="type")
]
"""What `mode: train` can build."""


AutoencoderPreset = Literal["tiny", "small", "paper"]


def autoencoder_preset(name: AutoencoderPreset) -> KlArchitecture:
    """An architecture of a known size; millions of parameters in brackets.

    `tiny` (0.9, KL-f8 for a CPU), `small` (3.8, KL-f8), `paper` (55, KL-f4 with three channels, as
    HistoDiffusion's).
    """
    match name:
        case "tiny":
            return KlArchitecture(
                type="kl",
                channels=(16, 32, 64, 64),
                latent_channels=4,
                blocks_per_level=1,
                norm_groups=8,
                mid_attention=False,
            )
        case "small":
            return KlArchitecture(
                type="kl",
                channels=(32, 64, 128, 128),
                latent_channels=4,
                blocks_per_level=1,
                norm_groups=8,
                mid_attention=False,
            )
        case "paper":
            return KlArchitecture(type="kl", channels=(128, 256, 512), latent_channels=3)
