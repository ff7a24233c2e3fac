"""``--dry-run``: what a command would do, given what is there; computes and writes nothing."""

from collections.abc import Mapping
from typing import Any, TextIO

import yaml

from histodiff.artifacts import Artifact, CommandConfig, Reference, fingerprint, open_artifact
from histodiff.artifacts.artifact import MANIFEST, planned_identity, read_plan
from histodiff.artifacts.fingerprint import differing_fields
from histodiff.cli.results import print_json
from histodiff.cluster.site import Site
from histodiff.errors import ArtifactNotFound, HistodiffError
from histodiff.storage import StoragePath, list_names
from histodiff.workflows.registry import LoadedCommand


def dry_run(command: LoadedCommand, config: CommandConfig, site: Site) -> dict[str, Any]:
    """Config, inputs, state, units and estimate of one command, JSON-ready."""
    root = site.storage_root
    found = {key: _opened(root, reference) for key, reference in config.inputs().items()}
    ready = {key: artifact for key, artifact in found.items() if isinstance(artifact, Artifact)}
    missing = [key for key in found if key not in ready]
    path = root / config.output.folder
    done = _units_done(path)
    estimate = _estimate(command, config, site)
    units = estimate.get("units")
    return {
        "command": command.name,
        "output": str(config.output),
        "path": str(path),
        "inputs": {
            key: {
                "artifact": str(config.inputs()[key]),
                "state": artifact if isinstance(artifact, str) else "found",
            }
            for key, artifact in found.items()
        },
        **_state(path, config, ready, missing),
        "units_done": done,
        "units_remaining": int(units) - done if isinstance(units, int | float) else None,
        "estimate": estimate,
        "config": config.model_dump(mode="json"),
        "site": site.model_dump(mode="json"),
    }


def print_dry_run(plan: Mapping[str, Any], *, as_json: bool, out: TextIO) -> None:
    """The plan as one JSON object, or as YAML for people."""
    if as_json:
        print_json(plan, out=out)
    else:
        print(yaml.safe_dump(dict(plan), sort_keys=False, width=100).rstrip(), file=out)


def _opened(root: StoragePath, reference: Reference) -> Artifact | str:
    """The artifact, or why it cannot be read yet."""
    try:
        return open_artifact(root, reference)
    except ArtifactNotFound as error:
        return f"missing: {error}"


def _state(
    path: StoragePath, config: CommandConfig, inputs: Mapping[str, Artifact], missing: list[str]
) -> dict[str, Any]:
    """``state`` of the output and its fingerprints.

    ``config_fingerprint`` is over the config and the content of input artifacts. ``fingerprint``,
    of the plan on disk, is also over files outside of the root (slides), which a dry run does not
    read: they are taken as unchanged.
    """
    plan = read_plan(path)
    facts = {"fingerprint": plan["fingerprint"] if plan else None, "config_fingerprint": None}
    if missing:
        return {"state": f"waits for {', '.join(missing)}", **facts}
    what = planned_identity(config, inputs)
    facts["config_fingerprint"] = fingerprint(what)
    if plan is None:
        return {"state": "new", **facts}
    differing = differing_fields(plan["what"], {**what, "inventory": plan["what"]["inventory"]})
    if differing:
        return {"state": f"differs: {'; '.join(differing)}", **facts}
    return {"state": "finished" if (path / MANIFEST).exists() else "started", **facts}


def _units_done(path: StoragePath) -> int:
    return sum(name.endswith(".json") for name in list_names(path / "ledger"))


def _estimate(command: LoadedCommand, config: CommandConfig, site: Site) -> dict[str, Any]:
    """The command's estimate, or why there is none (an input is missing, or does not fit)."""
    try:
        return dict(command.estimate(config, site))
    except HistodiffError as error:
        return {"unknown": " ".join(str(error).split())}
