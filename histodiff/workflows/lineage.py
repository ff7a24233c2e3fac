"""What artifacts were made from, all the way back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from histodiff.artifacts import Artifact, Kind, Reference, open_artifact
from histodiff.errors import ArtifactNotFound
from histodiff.storage import StoragePath

_MEASURED = {Kind.SAMPLES: "quality", Kind.AUTOENCODERS: "targets"}
"""Block of a config whose PatchIndexes were measured on."""


@dataclass(frozen=True)
class Ancestor:
    """An artifact that another one was made from."""

    address: str
    """Full address ``kind/name@version``."""
    fingerprint: str


def all_inputs(artifact: Artifact) -> list[str]:
    """Addresses of the inputs of an artifact."""
    return sorted(artifact.manifest.inputs)


def learned_from(artifact: Artifact) -> list[str]:
    """Those of its inputs that it was not only measured on.

    What is only measured on are PatchIndexes: ``quality`` of samples, ``targets`` of an
    autoencoder.
    """
    config = artifact.manifest.config
    block = _MEASURED.get(Kind(artifact.manifest.kind))
    measured = {_patches(text) for text in _texts(config.get(block))} if block else set()
    measured -= {_patches(text) for text in _texts(config.get("patches"))}
    return [address for address in all_inputs(artifact) if address not in measured]


def ancestors(
    root: StoragePath,
    artifact: Artifact,
    *,
    parents: Callable[[Artifact], list[str]] = all_inputs,
) -> list[Ancestor]:
    """Everything that ``artifact`` was made from, nearest first, as far as it can be found.

    Args:
        root: Where artifacts are looked up.
        artifact: Whose ancestors.
        parents: Which inputs of an artifact are followed.
    """
    found: dict[str, Ancestor] = {}
    waiting = [artifact]
    while waiting:
        child = waiting.pop(0)
        for address in parents(child):
            if address in found:
                continue
            found[address] = Ancestor(address, child.manifest.inputs[address])
            try:
                waiting.append(open_artifact(root, Reference(address)))
            except ArtifactNotFound:
                continue
    return list(found.values())


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
