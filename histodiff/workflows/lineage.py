"""What artifacts were made from, all the way back."""

from dataclasses import dataclass

from histodiff.artifacts import Artifact, Reference, open_artifact
from histodiff.errors import ArtifactNotFound
from histodiff.storage import StoragePath


@dataclass(frozen=True)
class Ancestor:
    """An artifact that another one was made from."""

    address: str
    """Full address ``kind/name@version``."""
    fingerprint: str


def ancestors(root: StoragePath, artifact: Artifact) -> list[Ancestor]:
    """Everything that ``artifact`` was made from, nearest first, as far as it can be found.

    Args:
        root: Where artifacts are looked up.
        artifact: Whose ancestors.
    """
    found: dict[str, Ancestor] = {}
    waiting = [artifact.manifest.inputs]
    while waiting:
        for address, fingerprint in waiting.pop(0).items():
            if address in found:
                continue
            found[address] = Ancestor(address, fingerprint)
            try:
                waiting.append(open_artifact(root, Reference(address)).manifest.inputs)
            except ArtifactNotFound:
                continue
    return list(found.values())
