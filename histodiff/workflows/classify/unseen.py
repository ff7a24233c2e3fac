"""That nothing which a classifier goes back to has seen a slide on which it is tested.

A network that learned from test slides, without their labels too, is no longer tested on new ones.
Pools are checked where they join; this is for what was trained before: encoders, denoisers,
autoencoders, guides, samples.
"""

import logging
from collections.abc import Mapping

import pyarrow.compute as pc

from histodiff.artifacts import Artifact, Kind, Reference, open_artifact
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ArtifactNotFound, ConfigError
from histodiff.storage import StoragePath
from histodiff.workflows.lineage import Ancestor, ancestors, learned_from

_COLUMNS = ("slide_id", "patient_id")
_log = logging.getLogger(__name__)


def require_unseen(
    root: StoragePath, target: Artifact, index: PatchIndex, inputs: Mapping[str, Artifact]
) -> None:
    """Checks every PatchIndex that ``inputs`` were made from against the test split.

    Args:
        root: Where what they were made from is looked up; what is not there any more, or is not
            what it was, cannot be checked, which is said.
        target: The patches that the classifier is scored on.
        index: The same, opened.
        inputs: Everything that the classifier reads, by config key.

    Raises:
        ConfigError: Training patches of one are of a slide or patient of the test split.
    """
    sources: dict[str, tuple[str, Ancestor]] = {}
    for key, artifact in inputs.items():
        for ancestor in ancestors(root, artifact, parents=_learned_from):
            if ancestor.address.startswith(f"{Kind.PATCHES}/"):
                sources.setdefault(ancestor.address, (f"{key}: {artifact.reference}", ancestor))
    known = {str(artifact.reference) for artifact in [target, *inputs.values()]}
    tested = _names(index, "test")
    for address, (reader, ancestor) in sorted(sources.items()):
        if address in known:
            continue
        seen = _training_names(root, ancestor)
        if seen is None:
            _log.warning(
                "%s goes back to %s, which is not in %s any more: that it has seen no test slide"
                " is not checked",
                reader, address, root,
            )  # fmt: skip
            continue
        for column in _COLUMNS:
            shared = sorted(tested[column] & seen[column])
            if shared:
                raise ConfigError(
                    f"{reader} has learned from {address}, where {len(shared)} {column}s are for"
                    f" training that are for test in {target.reference}"
                    f" ({', '.join(shared[:3])}): train it without them; or, if they are others of"
                    " the same name, tile the patches with other names"
                )


def _learned_from(artifact: Artifact) -> list[str]:
    found = learned_from(artifact)
    if artifact.manifest.kind != Kind.SAMPLES:
        return found
    measures = f"{Kind.CLASSIFIERS}/"  # of samples they judge the quality alone
    return [address for address in found if not address.startswith(measures)]


def _training_names(root: StoragePath, ancestor: Ancestor) -> dict[str, set[str]] | None:
    try:
        found = open_artifact(root, Reference(ancestor.address))
    except ArtifactNotFound:
        return None
    if found.manifest.fingerprint != ancestor.fingerprint:
        return None
    return _names(PatchIndex.open(found.path, columns=[*_COLUMNS, "split"]), "train")


def _names(index: PatchIndex, split: str) -> dict[str, set[str]]:
    rows = index.patches.filter(pc.equal(index.patches["split"], split))
    return {
        column: {str(name) for name in rows[column].unique().to_pylist() if name is not None}
        for column in _COLUMNS
    }
