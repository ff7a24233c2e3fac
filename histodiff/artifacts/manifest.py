"""The manifest: an artifact's immutable record, written last."""

from typing import Any

from histodiff.config import Config


class UnitIssue(Config):
    """One unit (slide, image, row, shard) that gave nothing, with its reason."""

    unit: str
    """Which unit: a slide id, an image path, a row."""
    reason: str
    """Machine-readable reason, such as NO_TISSUE."""
    detail: str = ""
    """One line for people, with the fix where there is one."""


class Manifest(Config):
    """Record of a finished artifact. No manifest means not finished."""

    kind: str
    """Kind of artifact, the first folder below the root."""
    name: str
    """Name that its maker chose."""
    version: str
    """Version that its maker chose."""
    format: int
    """Format number of the artifact's layout."""
    fingerprint: str
    """SHA-256 of what was to be computed: identity of the config and of the inputs."""
    config: dict[str, Any]
    """The resolved config."""
    inputs: dict[str, str]
    """Fingerprint of every input artifact, by its full address."""
    provenance: dict[str, Any]
    """Who made it: git, argv, versions, hardware, wall time."""
    contents: dict[str, Any]
    """Counts and results in brief; what they are depends on the kind."""
    content_sha256: str
    """Digest of what was written, independent of where and by how many workers."""
    files: dict[str, str]
    """SHA-256 of every published file, by its relative path."""
    skipped: tuple[UnitIssue, ...] = ()
    """Units rightly left out; not failures."""
    failed: tuple[UnitIssue, ...] = ()
    """Units that failed; the command exits with 3."""
