"""Artifacts: immutable folders ``{root}/{kind}/{name}/{version}`` with a plan and a manifest."""

from histodiff.artifacts.artifact import Artifact, Draft, begin, is_finished, open_artifact
from histodiff.artifacts.command import CommandConfig, Kind, Reference
from histodiff.artifacts.fingerprint import canonical_json, content_sha256, fingerprint
from histodiff.artifacts.manifest import Manifest, UnitIssue
from histodiff.artifacts.provenance import provenance

__all__ = [
    "Artifact",
    "CommandConfig",
    "Draft",
    "Kind",
    "Manifest",
    "Reference",
    "UnitIssue",
    "begin",
    "canonical_json",
    "content_sha256",
    "fingerprint",
    "is_finished",
    "open_artifact",
    "provenance",
]
