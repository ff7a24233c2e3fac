"""The kinds of extractors: a config by ``type`` for each, and what makes an ``Extractor`` of it.

A new kind is a config, a function that makes it, and a case where extractors are opened. None is a
default: what a figure was measured with is always written down.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from histodiff.artifacts import Kind, Reference
from histodiff.config import Config, Location
from histodiff.features.extractor import Extractor
from histodiff.latents import Whitening
from histodiff.models.activations import middle_features
from histodiff.models.autoencoder import Autoencoder, weights_sha256
from histodiff.models.classifier import (
    Classifier,
    ClassifierConfig,
    FileWeights,
    RepositoryWeights,
    create_classifier,
)
from histodiff.models.denoiser import LAST, LoadedDenoiser
from histodiff.models.perceptual import RandomFeatures, perceptual_distance
from histodiff.runtime import generator_for

_ALL_WEIGHTS = ("",)


class TimmExtractor(Config):
    """A backbone of timm before its logits, with trained weights."""

    type: Literal["timm"]
    model: str
    """Name of the backbone in timm, such as `resnet50` or `inception_v3`."""
    pretrained: Annotated[RepositoryWeights | FileWeights, Field(discriminator="type")]
    """Its weights: `repository` of the hub at one commit, or `file`."""
    input_px: int = Field(ge=32)
    """Side that images are resized to."""


class ClassifierExtractor(Config):
    """A classifier that was trained here, before its logits."""

    type: Literal["classifier"]
    classifier: Annotated[Reference, Location()]
    """Classifier; trained on real images only, or it knows the samples."""


class DenoiserExtractor(Config):
    """A denoiser that was trained here: its middle block, where nothing else was trained."""

    type: Literal["denoiser"]
    denoiser: Annotated[Reference, Location()]
    """Denoiser."""
    snapshot: str = LAST
    """Its EMA snapshot."""
    autoencoder: Annotated[Reference, Location()]
    """Autoencoder whose encoder it belongs to."""
    sigma: float = Field(default=0.2, gt=0)
    """Noise level, in units of whitened latents; the same noise for every image."""


class RandomExtractor(Config):
    """A small network with random weights: tells colours and textures apart, not tissues."""

    type: Literal["random_features"]
    input_px: int = Field(default=64, ge=16)
    """Side that images are resized to."""
    seed: int = 0
    """Decides the weights."""


ExtractorConfig = Annotated[
    TimmExtractor | ClassifierExtractor | DenoiserExtractor | RandomExtractor,
    Field(discriminator="type"),
]


def extractor_inputs(config: ExtractorConfig) -> dict[str, Reference]:
    """Full addresses of the artifacts that an extractor is made from, by its field."""
    match config:
        case ClassifierExtractor():
            return {"classifier": config.classifier.as_kind(Kind.CLASSIFIERS)}
        case DenoiserExtractor():
            return {
                "denoiser": config.denoiser.as_kind(Kind.DENOISERS),
                "autoencoder": config.autoencoder.as_kind(Kind.AUTOENCODERS),
            }
        case _:
            return {}


def timm_extractor(config: TimmExtractor, *, device: str) -> Extractor:
    """The backbone that ``config`` names.

    Raises:
        ConfigError: timm knows no such backbone, or the weights are not those of it.
    """
    network = ClassifierConfig(
        model=config.model, pretrained=config.pretrained, input_px=config.input_px
    )
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and replaced
        classifier = create_classifier(network, 0, device=device)
    digest = weights_sha256(classifier.backbone, _ALL_WEIGHTS)
    return _before_logits(classifier, name=f"timm {config.model}", digest=digest, device=device)


def classifier_extractor(classifier: Classifier, *, name: str, device: str) -> Extractor:
    """A classifier that was trained here."""
    digest = weights_sha256(classifier, _ALL_WEIGHTS)
    return _before_logits(classifier, name=name, digest=digest, device=device)


def denoiser_extractor(
    config: DenoiserExtractor,
    loaded: LoadedDenoiser,
    autoencoder: Autoencoder,
    *,
    name: str,
    device: str,
) -> Extractor:
    """The middle block of a denoiser, for images encoded by ``autoencoder``."""
    whitening = Whitening(loaded.whitening_mean, loaded.whitening_scale)
    drawn = generator_for(0, "extractor-noise").standard_normal(loaded.latent_shape)
    noise_CHW = torch.from_numpy(drawn).float().to(device)

    def features(pixels_BCHW: Tensor) -> Tensor:
        # pixels 0..255 -> posterior means -> whitened, noisy latents -> activations
        raw_BCHW = autoencoder.encode(pixels_BCHW.round().clamp(0, 255).to(torch.uint8)).mean
        noisy_BCHW = whitening.apply(raw_BCHW) + config.sigma * noise_CHW
        sigma_B = torch.full((len(noisy_BCHW),), config.sigma, device=device)
        return middle_features(loaded.denoiser, noisy_BCHW, sigma_B)

    return Extractor(
        f"middle block of {name} at sigma {config.sigma:g}",
        weights_sha256(loaded.denoiser, _ALL_WEIGHTS),
        loaded.patch_px,
        device,
        features,
    )


def random_extractor(config: RandomExtractor, *, device: str) -> Extractor:
    """The small network with random weights."""
    network = perceptual_distance(RandomFeatures(seed=config.seed), device=device)
    return Extractor(
        f"random features, seed {config.seed}",
        weights_sha256(network, _ALL_WEIGHTS),
        config.input_px,
        device,
        lambda pixels_BCHW: network.pooled(pixels_BCHW / 127.5 - 1),
    )


def _before_logits(classifier: Classifier, *, name: str, digest: str, device: str) -> Extractor:
    classifier.eval().requires_grad_(requires_grad=False)
    return Extractor(name, digest, classifier.config.input_px, device, classifier.features)
