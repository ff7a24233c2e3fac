"""Config of ``autoencoder``: what is imported or trained, and what it is measured on."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from histodiff.artifacts import CommandConfig, Kind, Reference
from histodiff.config import Config, Location
from histodiff.models.perceptual import PerceptualConfig, RandomFeatures
from histodiff.pretraining.autoencoder.config import AutoencoderTraining, DecoderTraining


class ImportMode(Config):
    """Take a published autoencoder.

    ``AutoencoderKL``, ``AutoencoderTiny`` and ``AutoencoderDC`` of diffusers, what was saved here,
    or one of the TAESD family as its repository has it.
    """

    type: Literal["import"]
    source: Annotated[str, Location()]
    """A folder with config.json and safetensors weights, or a Hugging Face hub id; a folder with
    *_encoder.pth and *_decoder.pth of the TAESD family, or that encoder's .pth itself."""
    decoder: Annotated[str | None, Location()] = None
    """The decoder's .pth, where `source` is the encoder's."""
    revision: str | None = None
    """Commit of the hub repository; required for a hub id."""
    subfolder: str | None = None
    """Folder below the source, such as `vae`."""


class TrainMode(AutoencoderTraining):
    """Train an own autoencoder on the train split of the patches."""

    type: Literal["train"]


class DecoderMode(DecoderTraining):
    """Train the decoder of a finished autoencoder on the train split of the patches.

    The encoder stays what it is, so latents that were encoded before stay valid.
    """

    type: Literal["decoder"]
    autoencoder: Annotated[Reference, Location()]
    """The autoencoder whose decoder is trained further."""


Mode = ImportMode | TrainMode | DecoderMode

SOURCE = "mode.autoencoder"
"""Key of the input whose decoder is trained."""
TARGETS = "targets."
"""Beginning of the keys of inputs that are only measured on."""


class AutoencoderConfig(CommandConfig):
    """Config of ``autoencoder``."""

    artifact_kind: ClassVar[Kind] = Kind.AUTOENCODERS

    patches: Annotated[tuple[Reference, ...], Location()] = ()
    """PatchIndexes to train on (train split) and to measure on (val split); needed for training."""
    targets: Annotated[tuple[Reference, ...], Location()] = ()
    """PatchIndexes of targets, to measure on as well (val split): what the autoencoder loses there
    no classifier gets to see. None is trained on unless it is among the patches too."""
    mode: Mode = Field(discriminator="type")
    """`import`, `train` or `decoder`."""
    num_held_out: int = Field(default=128, ge=1)
    """At most this many validation patches are measured."""
    perceptual: PerceptualConfig = RandomFeatures()
    """The network that measures the perceptual distance of reconstructions: `random_features`, or
    `lpips` where its weights are at hand."""
    threads: int = Field(ge=1)
    """Torch threads of a rank; part of the identity, as results on a CPU depend on it."""
    seed: int
    """Decides the first weights, the patches, and every draw."""

    @model_validator(mode="after")
    def _training_needs_patches(self) -> "AutoencoderConfig":
        if not isinstance(self.mode, ImportMode) and not self.patches:
            raise ValueError(f"mode '{self.mode.type}' needs patches; give a list of PatchIndexes")
        return self

    def inputs(self) -> dict[str, Reference]:
        inputs = {
            f"patches.{number}": reference.as_kind(Kind.PATCHES)
            for number, reference in enumerate(self.patches)
        }
        inputs |= {
            f"{TARGETS}{number}": reference.as_kind(Kind.PATCHES)
            for number, reference in enumerate(self.targets)
        }
        if isinstance(self.mode, DecoderMode):
            inputs[SOURCE] = self.mode.autoencoder.as_kind(Kind.AUTOENCODERS)
        return inputs
