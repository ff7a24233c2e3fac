"""``inspect``: what an artifact is, from its plan, ledger and manifest; nothing is read in full."""

import re
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import yaml

from histodiff.artifacts import Artifact, Kind, Reference, open_artifact
from histodiff.artifacts.artifact import read_plan
from histodiff.cluster.site import Site
from histodiff.errors import ArtifactNotFound, ConfigError
from histodiff.latents import ChannelStatistics
from histodiff.storage import StoragePath, file_sizes, list_names, storage_path
from histodiff.telemetry import read_live

_ADDRESS = re.compile(r"(?:(?P<kind>[a-z]+)/)?(?P<name>[\w.-]+)@(?P<version>[\w.-]+)")

_SILENT_SECONDS = 60.0


def inspect(address: str, site: Site) -> dict[str, Any]:
    """All that is known of an artifact, finished or not, JSON-ready.

    Args:
        address: ``kind/name@version``, ``name@version`` where one kind has it, or a folder or URL.
        site: Its root is where addresses are looked up.

    Raises:
        ConfigError: The address is none, or means several artifacts.
        ArtifactNotFound: Nothing was ever begun there.
    """
    root, reference = located(address, site)
    path = root / reference.folder
    sizes = file_sizes(path)
    facts = {
        "artifact": str(reference),
        "path": str(path),
        "num_files": len(sizes),
        "num_bytes": sum(sizes.values()),
        "units_done": sum(name.endswith(".json") for name in list_names(path / "ledger")),
    }
    try:
        manifest = open_artifact(root, reference).manifest
    except ArtifactNotFound:
        plan = read_plan(path)
        if plan is None:
            raise
        return {**facts, "state": "not finished", "plan": plan, **_live_facts(path)}
    return {**facts, "state": "finished", "manifest": manifest.model_dump(mode="json")}


def find_artifact(address: str, site: Site) -> Artifact:
    """The finished artifact at an address, as ``inspect`` takes it."""
    return open_artifact(*located(address, site))


def located(address: str, site: Site) -> tuple[StoragePath, Reference]:
    """The root and the full address that ``address`` means."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        return _from_path(address)
    root = site.storage_root
    name, version = match["name"], match["version"]
    if match["kind"]:
        if match["kind"] not in set(Kind):
            raise ConfigError(f"'{address}': no such kind; known: {', '.join(Kind)}")
        return root, Reference.of(Kind(match["kind"]), name, version)
    found = [kind for kind in Kind if read_plan(root / kind / name / version) is not None]
    if len(found) != 1:
        several = " and ".join(f"{kind}/{address}" for kind in found)
        hint = f"it means {several}: name one" if found else f"nothing of that name below {root}"
        raise ConfigError(f"'{address}': {hint}")
    return root, Reference.of(found[0], name, version)


def described(facts: dict[str, Any]) -> str:
    """The facts for people: identity, origin, counts, issues and the config as YAML."""
    manifest = facts.get("manifest")
    lines = [
        f"{facts['artifact']}  {facts['state']}",
        f"path         {facts['path']}",
        f"files        {facts['num_files']} ({facts['num_bytes']:,} bytes)",
    ]
    if manifest is None:
        lines += [f"units done   {facts['units_done']}", *_live_lines(facts.get("live"))]
        lines += [_block("plan", facts["plan"]["what"])]
        return "\n".join(lines)
    made = manifest["provenance"]
    versions = " ".join(f"{name} {number}" for name, number in made["packages"].items())
    lines += [
        f"fingerprint  {manifest['fingerprint']}",
        f"content      {manifest['content_sha256']}",
        f"made         in {made['wall_seconds']} s, git {made['git']}, {versions}",
        f"issues       {len(manifest['skipped'])} skipped, {len(manifest['failed'])} failed",
        *(f"  {i['unit']}: {i['reason']} {i['detail']}".rstrip() for i in manifest["failed"]),
        _block("inputs", manifest["inputs"]),
        *_statistics(manifest["contents"].get("statistics")),
        _block("contents", {k: v for k, v in manifest["contents"].items() if k != "statistics"}),
        _block("config", manifest["config"]),
    ]
    return "\n".join(lines)


def _live_facts(path: StoragePath) -> dict[str, Any]:
    """Where a training in this folder is; nothing where none was begun."""
    live = read_live(path)
    if live is None:
        return {}
    later = {"eta_seconds": live.eta_seconds, "age_seconds": live.age_seconds}
    return {"live": asdict(live) | later}


def _live_lines(live: dict[str, Any] | None) -> list[str]:
    """The training for people; what is not known yet reads ``-``."""
    if live is None:
        return []
    eta = live["eta_seconds"]
    lines = [
        f"step         {live['step']:,}",
        f"images seen  {live['images_seen']:,} of {live['images_total']:,}",
        f"loss         {_number(live['loss'])}",
        f"images/s     {_number(live['images_per_second'])}",
        f"MFU          {live['mfu_note'] or _number(live['mfu'], '{:.1%}')}",
        f"data wait    {_number(live['data_wait_share'], '{:.1%}')} of the time",
        f"ETA          {'-' if eta is None else timedelta(seconds=round(eta))}",
        f"checkpoint   {_number(live['checkpoint_step'], 'of step {:,}')}",
        f"ranks        {live['ranks']}",
        f"updated      {live['updated']}, {timedelta(seconds=round(live['age_seconds']))} ago",
    ]
    if live["age_seconds"] > _SILENT_SECONDS:
        lines += ["             no step for a while: it has ended, hangs, or its steps are long"]
    return lines


def _number(value: float | None, form: str = "{:.4g}") -> str:
    return "-" if value is None else form.format(value)


def _statistics(recorded: dict[str, Any] | None) -> list[str]:
    """Statistics of a latent store, a line per channel; nothing where none are recorded."""
    if recorded is None:
        return []
    found = ChannelStatistics.model_validate(recorded)
    lines = [f"latents of {found.rows:,} rows, raw:", "  channel       mean        std  posterior"]
    for channel, (mean, variance, share) in enumerate(
        zip(found.mean_of_means, found.variance_of_means, found.posterior_share, strict=True)
    ):
        lines.append(f"  {channel:7d} {mean:10.4g} {variance**0.5:10.4g} {share:10.2%}")
    note = "  std is of the posterior means; posterior is its share of the variance of draws"
    return [*lines, note]


def _from_path(address: str) -> tuple[StoragePath, Reference]:
    path = storage_path(address)
    kind, name, version = ("", "", "", *path.parts)[-3:]
    if kind not in set(Kind):
        raise ConfigError(
            f"'{address}': neither kind/name@version nor a folder ending in kind/name/version"
        )
    return path.parent.parent.parent, Reference.of(Kind(kind), name, version)


def _block(title: str, values: Any) -> str:
    text = yaml.safe_dump(values, sort_keys=True, width=100).rstrip()
    return f"{title}:\n" + "\n".join(f"  {line}" for line in text.splitlines())
