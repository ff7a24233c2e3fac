"""Which images a SampleStore's networks saw: its lineage, walked back to the PatchIndexes.

A denoiser and an autoencoder see the train split of what they are given; a guide and a
variation see labelled patches of it, so all of that split is the safe side.
"""

from dataclasses import dataclass

from histodiff.artifacts import Artifact, Kind, Reference, open_artifact
from histodiff.errors import ArtifactNotFound, ConfigError
from histodiff.storage import StoragePath
from histodiff.workflows.lineage import learned_from

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
    """What an artifact learned from; classifiers measure samples, or choose among them."""
    return [
        address
        for address in learned_from(artifact)
        if not address.startswith(f"{Kind.CLASSIFIERS}/")
    ]
