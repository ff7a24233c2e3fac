"""Which images a SampleStore's networks saw: its lineage, walked back to the PatchIndexes.

What was only measured on (``quality`` of samples, ``targets`` of an autoencoder) was not learned
from. A denoiser and an autoencoder see the train split of what they are given; a guide and a
variation see labelled patches of it, so all of that split is the safe side.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from histodiff.artifacts import Artifact, Kind, Reference, open_artifact
from histodiff.errors import ArtifactNotFound, ConfigError
from histodiff.storage import StoragePath

_MEASURED = {Kind.SAMPLES: "quality", Kind.AUTOENCODERS: "targets"}
"""Block of a config whose PatchIndexes were measured on."""
_NETWORKS = (Kind.DENOISERS, Kind.AUTOENCODERS)


@dataclass(frozen=True)
class Seen:
    """PatchIndexes in the lineage of samples, in the order of their addresses."""

    patches: tuple[Artifact, ...]
    unlabelled: frozenset[str]
    """Addresses of those that a denoiser or an autoencoder was trained on, label or not."""
    elsewhere: tuple[str, ...]
    """Imported autoencoders: what they were trained on is not in this root."""


def images_seen(root: StoragePath, samples: Artifact) -> Seen:
    """What denoiser, autoencoder and guide of the samples learned from.

    Raises:
        ConfigError: An artifact of the lineage is not in this root.
    """
    found: dict[str, Artifact] = {}
    unlabelled: set[str] = set()
    elsewhere: set[str] = set()
    visited: set[tuple[str, bool]] = set()
    open_ones = [(samples, False)]
    while open_ones:
        artifact, by_network = open_ones.pop()
        kind = Kind(artifact.manifest.kind)
        address = str(artifact.reference)
        if kind is Kind.PATCHES:
            found[address] = artifact
            unlabelled |= {address} if by_network else set()
            continue
        if _imported(artifact):
            elsewhere.add(address)
            continue
        learned = by_network or kind in _NETWORKS
        for source in _learned_from(artifact):
            if (source, learned) not in visited:
                visited.add((source, learned))
                open_ones.append((_opened(root, source, samples), learned))
    return Seen(
        tuple(found[address] for address in sorted(found)),
        frozenset(unlabelled),
        tuple(sorted(elsewhere)),
    )


def _opened(root: StoragePath, address: str, samples: Artifact) -> Artifact:
    try:
        return open_artifact(root, Reference(address))
    except ArtifactNotFound as error:
        raise ConfigError(
            f"samples {samples.reference} come from {address}, which is not in this root, so nobody"
            " can say what their networks saw; pull it, or take out the rules `copies` and"
            " `realism`"
        ) from error


def _imported(artifact: Artifact) -> bool:
    mode = artifact.manifest.config.get("mode")
    return isinstance(mode, dict) and mode.get("type") == "import"


def _learned_from(artifact: Artifact) -> list[str]:
    """Inputs of an artifact, without PatchIndexes that it was only measured on."""
    config = artifact.manifest.config
    block = _MEASURED.get(Kind(artifact.manifest.kind))
    measured = {_patches(text) for text in _texts(config.get(block))} if block else set()
    measured -= {_patches(text) for text in _texts(config.get("patches"))}
    return sorted(
        address
        for address in artifact.manifest.inputs
        if address not in measured and not address.startswith(f"{Kind.CLASSIFIERS}/")
    )  # classifiers measure samples, or choose among them


def _patches(text: str) -> str:
    """The address of a PatchIndex that a config names in short or in full."""
    return f"{Kind.PATCHES}/{text.removeprefix(f'{Kind.PATCHES}/')}"


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for part in value.values():
                yield from _texts(part)
        case list() | tuple():
            for part in value:
                yield from _texts(part)
