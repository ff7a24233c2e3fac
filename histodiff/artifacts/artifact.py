"""Writing and opening artifacts.

``begin`` puts ``plan.json`` with a create-if-absent put before anything is computed: drift shows
before there is a result. ``Draft.finish`` puts ``manifest.json`` last. The same command again finds
the same fingerprint and resumes; another fingerprint under the same name is ``ArtifactDrift``,
except for versions ``dev`` and ``*-dev``, which are rebuilt. Whatever is computed is computed
inside ``with draft:``, by one driver at a time.
"""

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from histodiff.artifacts.command import CommandConfig, Kind, Reference
from histodiff.artifacts.fingerprint import content_sha256, differing_fields, fingerprint
from histodiff.artifacts.lease import DRIVER_FOLDER, Lease, require_dead
from histodiff.artifacts.manifest import Manifest, UnitIssue
from histodiff.artifacts.provenance import provenance
from histodiff.config import identity
from histodiff.errors import ArtifactBusy, ArtifactCorrupt, ArtifactDrift, ArtifactNotFound
from histodiff.storage import (
    StoragePath,
    check_writable,
    create_bytes,
    file_sizes,
    is_local,
    read_bytes,
    remove_tree,
    sha256_of,
    write_bytes,
)

PLAN, MANIFEST = "plan.json", "manifest.json"
_UNPUBLISHED = ("ledger/", "checkpoints/", "scratch/", f"{DRIVER_FOLDER}/")


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its folder and its manifest."""

    path: StoragePath
    manifest: Manifest

    @property
    def reference(self) -> Reference:
        """Full address ``kind/name@version``."""
        return Reference.of(Kind(self.manifest.kind), self.manifest.name, self.manifest.version)


def open_artifact(root: StoragePath, reference: Reference) -> Artifact:
    """The finished artifact at a full address.

    Raises:
        ArtifactNotFound: There is none, or it has no manifest yet.
        ArtifactCorrupt: The manifest is not one.
    """
    path = root / reference.folder
    try:
        text = read_bytes(path / MANIFEST)
    except (FileNotFoundError, NotADirectoryError) as error:
        started = (path / PLAN).exists()
        state = "is not finished: run its command again" if started else "does not exist"
        raise ArtifactNotFound(f"{reference} {state} (looked in {path})") from error
    try:
        return Artifact(path, Manifest.model_validate_json(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        problem = f"is not a manifest ({f'{place}: ' if place else ''}{first['msg']})"
        raise ArtifactCorrupt(_mended(path, MANIFEST, problem)) from error


def is_finished(root: StoragePath, reference: Reference) -> bool:
    """Whether there is an artifact at a full address, with its manifest."""
    try:
        open_artifact(root, reference)
    except ArtifactNotFound:
        return False
    return True


@dataclass
class Draft:
    """An artifact being written; ``finished`` is its Artifact if there is nothing left to do."""

    path: StoragePath
    config: CommandConfig
    fingerprint: str
    inputs: Mapping[str, str]
    format: int
    finished: Artifact | None
    _started: float = field(default_factory=time.monotonic)
    _lease: Lease | None = None

    def __enter__(self) -> "Draft":
        """Becomes the only driver of the artifact, until the block ends, however it ends.

        Raises:
            ArtifactBusy: There is another one, or there was one since ``begin``.
        """
        with ExitStack() as stack:
            lease = stack.enter_context(Lease(self.path))
            plan = read_plan(self.path)
            done = self.finished is None and (self.path / MANIFEST).exists()
            if done or plan is None or plan["fingerprint"] != self.fingerprint:
                raise ArtifactBusy(
                    f"{self.config.output}: another driver was at work on it just now; run the same"
                    " command again"
                )
            self._lease = lease
            stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        if self._lease is not None:
            self._lease.__exit__(*raised)
            self._lease = None

    def abandon(self) -> None:
        """Removes all that was begun, because it is worth no artifact: its name is free again.

        Raises:
            ArtifactBusy: Another driver has taken over.
        """
        if self._lease is not None:
            self._lease.check()
        remove_tree(self.path)

    def finish(
        self,
        contents: Mapping[str, Any],
        *,
        content: str | None = None,
        files: Mapping[str, str] | None = None,
        skipped: Iterable[UnitIssue] = (),
        failed: Iterable[UnitIssue] = (),
        measured: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Writes the manifest.

        Args:
            contents: Counts and results in brief.
            content: Digest of the content; by default over the digests of the files.
            files: SHA-256 by relative path where the writer knows them; by default every published
                file is read back and hashed.
            skipped: Units rightly left out.
            failed: Units that failed.
            measured: What else was measured of the run, for its provenance.

        Raises:
            ArtifactBusy: Another driver has taken over.
        """
        digests = dict(files) if files is not None else published_digests(self.path)
        manifest = Manifest(
            kind=self.config.artifact_kind,
            name=self.config.name,
            version=self.config.version,
            format=self.format,
            fingerprint=self.fingerprint,
            config=self.config.model_dump(mode="json"),
            inputs=dict(self.inputs),
            provenance={**provenance(time.monotonic() - self._started), **(measured or {})},
            contents=dict(contents),
            content_sha256=content or content_sha256(digests),
            files=digests,
            skipped=tuple(skipped),
            failed=tuple(failed),
        )
        if self._lease is not None:
            self._lease.check()
        write_bytes(self.path / MANIFEST, _pretty(manifest.model_dump(mode="json")))
        return Artifact(self.path, manifest)


def begin(
    root: StoragePath,
    config: CommandConfig,
    *,
    inputs: Mapping[str, Artifact] | None = None,
    inventory: Mapping[str, str] | None = None,
    format: int = 1,
) -> Draft:
    """Plans the artifact that ``config`` describes, or picks it up where it was left.

    Args:
        root: Where artifacts live.
        config: The resolved config; its identity is fingerprinted.
        inputs: The artifacts that are read, by the config key that names them.
        inventory: Identity of external inputs (slide id -> content hash), fingerprinted too.
        format: Format number of the artifact's layout.

    Raises:
        ArtifactBusy: A version that would be rebuilt is being written.
        ArtifactDrift: The name@version exists with another fingerprint; lists the fields.
        ConfigError: The root cannot be written.
    """
    what = planned_identity(config, inputs or {}, inventory)
    path = root / config.output.folder
    digest = fingerprint(what)
    plan = {"fingerprint": digest, "format": format, "what": what}
    found = read_plan(path)
    if found is not None and found["fingerprint"] != digest:
        if not is_dev(config.version):
            raise ArtifactDrift(_drift_message(config.output, found["what"], what))
        require_dead(path)
        remove_tree(path)
        found = None
    if found is None:
        check_writable(root)
        if not create_bytes(path / PLAN, _pretty(plan)):
            other = read_plan(path)
            if other is None or other["fingerprint"] != digest:
                raise ArtifactDrift(
                    _drift_message(config.output, (other or {}).get("what", {}), what)
                )
    done = (path / MANIFEST).exists()
    return Draft(
        path=path,
        config=config,
        fingerprint=digest,
        inputs={str(item.reference): item.manifest.fingerprint for item in (inputs or {}).values()},
        format=format,
        finished=open_artifact(root, config.output) if done else None,
    )


def planned_identity(
    config: CommandConfig,
    inputs: Mapping[str, Artifact],
    inventory: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What is fingerprinted: kind, identity of the config, content of inputs and inventory."""
    what = {
        "kind": str(config.artifact_kind),
        "config": identity(config),
        "inputs": {key: item.manifest.content_sha256 for key, item in inputs.items()},
        "inventory": fingerprint(inventory) if inventory is not None else None,
    }
    parsed: dict[str, Any] = json.loads(json.dumps(what))
    return parsed


def published_names(path: StoragePath) -> list[str]:
    """Every published file below ``path``: not the plan, manifest, ledger or scratch."""
    return [
        name
        for name in file_sizes(path)
        if name not in (PLAN, MANIFEST) and not name.startswith(_UNPUBLISHED)
    ]


def published_digests(path: StoragePath) -> dict[str, str]:
    """SHA-256 of every published file below ``path``."""
    return {name: sha256_of(path / name) for name in published_names(path)}


def is_dev(version: str) -> bool:
    """Whether artifacts of this version are rebuilt on drift."""
    return version == "dev" or version.endswith("-dev")


def read_plan(path: StoragePath) -> dict[str, Any] | None:
    """The plan in an artifact's folder; None where nothing was begun.

    Raises:
        ArtifactCorrupt: The file is not JSON.
    """
    try:
        plan: Any = json.loads(read_bytes(path / PLAN))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ArtifactCorrupt(_mended(path, PLAN, "is not JSON")) from error
    if not isinstance(plan, dict) or not isinstance(plan.get("fingerprint"), str):
        raise ArtifactCorrupt(_mended(path, PLAN, "is not a plan"))
    return plan


def _mended(path: StoragePath, name: str, problem: str) -> str:
    """What is wrong with a file of an artifact, with the fix.

    A server may be at fault (another one that answers, the login page of a network), so nothing is
    to be removed there.
    """
    fix = (
        f"remove {path} to build it anew"
        if is_local(path)
        else "another server, or the login page of the network, may answer in its place: check the"
        " address and AWS_ENDPOINT_URL, or restore it from a copy"
    )
    return f"{path / name} {problem}; {fix}"


def _drift_message(output: Reference, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    lines = differing_fields(old, new)
    return (
        f"{output} exists with other settings: {'; '.join(lines) or 'unknown'}."
        " Choose another version, or restore the settings"
    )


def _pretty(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
