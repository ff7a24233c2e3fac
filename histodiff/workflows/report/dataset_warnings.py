"""Known traps of the data sets that a report goes back to, as ``tile`` recorded them."""

from collections.abc import Iterable
from dataclasses import dataclass

from histodiff.artifacts import Artifact, Kind, Reference, open_artifact
from histodiff.data_prep.sources.inputs import FoundTrap
from histodiff.errors import ArtifactNotFound
from histodiff.storage import StoragePath
from histodiff.workflows.lineage import ancestors

TRAPS = "traps"
"""Where the manifest's contents of a PatchIndex have them; indices from before have none."""


@dataclass(frozen=True)
class DatasetWarnings:
    """What is known to mislead about the data of one PatchIndex."""

    name: str
    """Its address."""
    traps: tuple[FoundTrap, ...]


def dataset_warnings(root: StoragePath, inputs: Iterable[Artifact]) -> list[DatasetWarnings]:
    """Every PatchIndex with traps among ``inputs`` and what they were made from, by address.

    Args:
        root: Where artifacts are looked up; what is not there any more is left out.
        inputs: What the report reads.
    """
    addresses = set()
    for item in inputs:
        addresses.add(str(item.reference))
        addresses |= {ancestor.address for ancestor in ancestors(root, item)}
    found = []
    for address in sorted(name for name in addresses if name.startswith(f"{Kind.PATCHES}/")):
        try:
            contents = open_artifact(root, Reference(address)).manifest.contents
        except ArtifactNotFound:
            continue
        if contents.get(TRAPS):
            traps = tuple(FoundTrap(**trap) for trap in contents[TRAPS])
            found.append(DatasetWarnings(address, traps))
    return found
