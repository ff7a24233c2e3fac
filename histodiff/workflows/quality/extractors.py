"""Extractors of finished artifacts, by the kind that a config names."""

from collections.abc import Mapping

from histodiff.artifacts import Artifact
from histodiff.errors import ConfigError
from histodiff.features.extractor import Extractor
from histodiff.features.kinds import (
    ClassifierExtractor,
    DenoiserExtractor,
    ExtractorConfig,
    RandomExtractor,
    TimmExtractor,
    classifier_extractor,
    denoiser_extractor,
    random_extractor,
    timm_extractor,
)
from histodiff.models.classifier import load_classifier
from histodiff.workflows.networks import (
    open_autoencoder,
    open_denoiser,
    require_same_encoder,
    require_snapshot,
)


def check_extractor(config: ExtractorConfig, inputs: Mapping[str, Artifact]) -> None:
    """Whether the artifacts fit, by their manifests alone.

    Raises:
        ConfigError: The classifier learned from samples, or the denoiser has no such snapshot.
        ArtifactError: Denoiser and autoencoder have different encoders.
    """
    match config:
        case ClassifierExtractor():
            artifact = inputs["extractor.classifier"]
            if artifact.manifest.contents.get("synthetic"):
                raise ConfigError(
                    f"extractor.classifier {artifact.reference} was trained on synthetic images"
                    " too; name one trained on real images only"
                )
        case DenoiserExtractor():
            denoiser = inputs["extractor.denoiser"]
            require_same_encoder(denoiser, inputs["extractor.autoencoder"])
            require_snapshot(denoiser, config.snapshot)
        case _:
            pass


def open_extractor(
    config: ExtractorConfig, inputs: Mapping[str, Artifact], *, device: str
) -> Extractor:
    """The network that ``config`` names.

    Args:
        config: Which one.
        inputs: Artifacts by their key below the block, such as ``extractor.classifier``.
        device: Where it runs.

    Raises:
        ConfigError: Weights are missing, or are another network's.
    """
    match config:
        case TimmExtractor():
            return timm_extractor(config, device=device)
        case RandomExtractor():
            return random_extractor(config, device=device)
        case ClassifierExtractor():
            artifact = inputs["extractor.classifier"]
            classifier = load_classifier(artifact.path, device=device).classifier
            return classifier_extractor(classifier, name=str(artifact.reference), device=device)
        case DenoiserExtractor():
            artifact = inputs["extractor.denoiser"]
            return denoiser_extractor(
                config,
                open_denoiser(artifact, device=device, snapshot=config.snapshot),
                open_autoencoder(inputs["extractor.autoencoder"], device=device),
                name=str(artifact.reference),
                device=device,
            )
