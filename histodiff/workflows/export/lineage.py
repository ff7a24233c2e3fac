"""What a denoiser was made from, and what was measured."""

from collections.abc import Iterator, Mapping
from typing import Any

from histodiff.artifacts import Artifact, Kind, Reference, open_artifact
from histodiff.errors import ArtifactNotFound, ConfigError
from histodiff.storage import StoragePath
from histodiff.workflows.lineage import ancestors
from histodiff.workflows.networks import ENCODER_SHA256, require_same_encoder


def autoencoder_of(root: StoragePath, denoiser: Artifact, given: Reference | None) -> Artifact:
    """The autoencoder that decodes what ``denoiser`` draws.

    Args:
        root: Where artifacts are looked up.
        denoiser: Whose latents.
        given: The one to take; None for that which made the latents.

    Raises:
        ArtifactError: It belongs to another encoder.
        ConfigError: None is given, and the one that made the latents is not there.
    """
    if given is not None:
        named = open_artifact(root, given.as_kind(Kind.AUTOENCODERS))
        require_same_encoder(named, denoiser)
        return named
    names = [
        ancestor.address
        for ancestor in ancestors(root, denoiser)
        if ancestor.address.startswith(f"{Kind.AUTOENCODERS}/")
    ]
    for name in names:
        try:
            found = open_artifact(root, Reference(name))
        except ArtifactNotFound:
            continue
        if found.manifest.contents[ENCODER_SHA256] == denoiser.manifest.contents[ENCODER_SHA256]:
            return found
    raise ConfigError(
        f"the autoencoder of {denoiser.reference} ({', '.join(names) or 'not recorded'}) is not in"
        f" {root}; set autoencoder=NAME@VERSION to one with the same encoder"
    )


def measures(artifact: Artifact) -> dict[str, float]:
    """What the manifest of ``artifact`` says was measured, by the path of its key.

    Measures are the numbers with a fraction, wherever they stand; counts and digests are none.
    """
    return dict(_fractions(artifact.manifest.contents, ""))


def _fractions(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, value in sorted(values.items()):
        if isinstance(value, Mapping):
            yield from _fractions(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            yield prefix + key, value
