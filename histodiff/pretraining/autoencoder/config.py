"""What of an autoencoder is trained, and with which loss, as typed config."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from histodiff.config import Config
from histodiff.data_prep.index.splits import LabelBudget
from histodiff.models.autoencoder import AutoencoderArchitecture
from histodiff.models.patch_network import smallest_side_px
from histodiff.models.perceptual import PerceptualConfig, RandomFeatures
from histodiff.training import TrainConfig


class PerceptualTerm(Config):
    """A distance between features of a fixed network (models/perceptual.py)."""

    weight: float = Field(gt=0)
    """Weight of the term."""
    network: PerceptualConfig = RandomFeatures()
    """`random_features` needs no download, `lpips` needs its weights as files."""


class PatchNetworkSize(Config):
    """Size of a small network that is trained beside the autoencoder."""

    width: int = Field(default=64, ge=8, multiple_of=8)
    """Channels of its first layer."""
    layers: int = Field(default=3, ge=1, le=5)
    """Layers that halve the resolution."""


class AdversarialTerm(PatchNetworkSize):
    """A discriminator of patches with the hinge loss, weighted as in VQGAN."""

    weight: float = Field(gt=0)
    """Length of its gradient at the decoder's last layer, against 1 for the other terms that
    compare pixels."""
    start_images: int = Field(ge=0)
    """Images seen before it, and the training of the discriminator, begins."""


class ClassificationTerm(PatchNetworkSize):
    """A classifier of reconstructions that is trained with the decoder, on labelled patches."""

    weight: float = Field(gt=0)
    """Weight of the cross-entropy."""
    budget: LabelBudget
    """How many labels it may see; with the seed of `guide` and `classify` the same ones."""


class DecoderLoss(Config):
    """Weights of the terms that compare pixels; these are in -1..1."""

    gradient: float = Field(default=1.0, ge=0)
    """Weight of the L1 error of the gradients, against 1 for the L1 error of the pixels."""
    gradient_scales: int = Field(default=3, ge=1, le=5)
    """Number of scales of the gradients, halving the resolution from one to the next."""
    perceptual: PerceptualTerm | None = None
    """A distance between features; null has none."""
    adversarial: AdversarialTerm | None = None
    """A discriminator; null has none."""


class DecoderTuningLoss(DecoderLoss):
    """Weights of the terms of the loss of a decoder by itself."""

    classification: ClassificationTerm | None = None
    """An auxiliary classifier; null has none. Needs one PatchIndex, with labels."""


class ReconstructionLoss(DecoderLoss):
    """Weights of the terms of the loss of a whole autoencoder."""

    kl: float = Field(gt=0)
    """Weight of the KL divergence to a standard normal, as a mean over latent values."""
    turned_latents: bool = False
    """Latents are flipped or turned, and decoded against the flipped or turned crop, so that the
    denoiser may train on turned latents (EQ-VAE: Kouzelis et al. 2025, arXiv 2502.09509)."""


class PatchTraining(Config):
    """Which patches are trained on, and how."""

    loss: DecoderLoss
    """The loss."""
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

    @model_validator(mode="after")
    def _terms_fit(self) -> Self:
        tuned = self.loss if isinstance(self.loss, DecoderTuningLoss) else None
        classification = tuned.classification if tuned is not None else None
        for name, term in (
            ("adversarial", self.loss.adversarial),
            ("classification", classification),
        ):
            if term is not None and self.crop_px < smallest_side_px(term.layers):
                raise ValueError(
                    f"crop_px={self.crop_px} is too small for loss.{name}.layers={term.layers},"
                    f" which need {smallest_side_px(term.layers)}; give fewer layers"
                )
        if self.loss.adversarial is not None and self.train.zero_stage == 3:
            raise ValueError(
                "loss.adversarial does not go with train.zero_stage=3, which has no gradients of"
                " the discriminator before start_images; set zero_stage to 2 or less"
            )
        return self


class AutoencoderTraining(PatchTraining):
    """A new autoencoder."""

    architecture: AutoencoderArchitecture
    """The network."""
    loss: ReconstructionLoss
    """The loss."""


class DecoderTraining(PatchTraining):
    """The decoder of a finished autoencoder; its encoder stays as it is."""

    loss: DecoderTuningLoss
    """The loss."""
