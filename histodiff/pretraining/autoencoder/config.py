"""What of an autoencoder is trained, and with which loss, as typed config."""

from pydantic import Field, field_validator

from histodiff.config import Config
from histodiff.models.autoencoder import AutoencoderArchitecture
from histodiff.training import TrainConfig


class DecoderLoss(Config):
    """Weights of the terms that compare pixels; these are in -1..1."""

    gradient: float = Field(default=1.0, ge=0)
    """Weight of the L1 error of the gradients, against 1 for the L1 error of the pixels."""
    gradient_scales: int = Field(default=3, ge=1, le=5)
    """Number of scales of the gradients, halving the resolution from one to the next."""


class ReconstructionLoss(DecoderLoss):
    """Weights of the terms of the loss of a whole autoencoder."""

    kl: float = Field(gt=0)
    """Weight of the KL divergence to a standard normal, as a mean over latent values."""


class PatchTraining(Config):
    """Which patches are trained on, and how."""

    crop_px: int = Field(ge=8)
    """Side of the random crops that are trained on; at most the patches' side."""
    max_patches: int = Field(ge=1)
    """At most this many patches are used, drawn at random; the ranks hold them in memory, each its
    share."""
    train: TrainConfig
    """The optimization; the first average of the weights becomes the autoencoder."""

    @field_validator("train")
    @classmethod
    def _suits_autoencoders(cls, train: TrainConfig) -> TrainConfig:
        if train.precision == "fp16":
            raise ValueError(
                "precision=fp16 overflows in KL autoencoders; set precision to bf16 or fp32"
            )
        if train.on_divergence.action == "roll_back":
            raise ValueError(
                "on_divergence.action=roll_back is not for autoencoders; set it to stop"
            )
        return train


class AutoencoderTraining(PatchTraining):
    """A new autoencoder."""

    architecture: AutoencoderArchitecture
    """The network."""
    loss: ReconstructionLoss
    """The loss."""


class DecoderTraining(PatchTraining):
    """The decoder of a finished autoencoder; its encoder stays as it is."""

    loss: DecoderLoss
    """The loss."""
