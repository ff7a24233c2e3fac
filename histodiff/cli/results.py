"""What a command prints when it is done: the result on stdout, what went wrong on stderr."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from histodiff.artifacts import Artifact, UnitIssue
from histodiff.cli.failures import ExitCode

MAX_LISTED = 20
_PAGE = "report.html"
_SUMMARY = "summary.txt"


def print_artifact(artifact: Artifact, *, as_json: bool, out: TextIO) -> ExitCode:
    """Prints its summary, if it has one, and its folder, or the manifest; issues go to stderr."""
    manifest = artifact.manifest
    _list_units("skipped", manifest.skipped)
    _list_units("failed", manifest.failed)
    if as_json:
        print_json({**manifest.model_dump(mode="json"), "path": str(artifact.path)}, out=out)
    else:
        if _SUMMARY in manifest.files:
            print((artifact.path / _SUMMARY).read_text(), file=out)
        print(main_file(artifact), file=out)
    return ExitCode.UNITS_FAILED if manifest.failed else ExitCode.DONE


def print_artifacts(artifacts: Sequence[Artifact], *, as_json: bool, out: TextIO) -> ExitCode:
    """Prints the last of several artifacts of a pipeline; fails if a unit of any of them did."""
    failed = False
    for artifact in artifacts[:-1]:
        _list_units(f"{artifact.reference}: skipped", artifact.manifest.skipped)
        _list_units(f"{artifact.reference}: failed", artifact.manifest.failed)
        failed = failed or bool(artifact.manifest.failed)
    code = print_artifact(artifacts[-1], as_json=as_json, out=out)
    return ExitCode.UNITS_FAILED if failed else code


def main_file(artifact: Artifact) -> str:
    """What a person opens: the page of a report, otherwise the artifact's folder."""
    return str(artifact.path / _PAGE if _PAGE in artifact.manifest.files else artifact.path)


def print_json(value: Any, *, out: TextIO) -> None:
    """One JSON object."""
    print(json.dumps(value, indent=2, sort_keys=True, default=str), file=out)


def _list_units(what: str, issues: Iterable[UnitIssue]) -> None:
    found = list(issues)
    if not found:
        return
    print(f"{what}: {len(found)}", file=sys.stderr)
    for issue in found[:MAX_LISTED]:
        detail = f": {issue.detail}" if issue.detail else ""
        print(f"  {issue.unit}: {issue.reason}{detail}", file=sys.stderr)
    if len(found) > MAX_LISTED:
        print(f"  ... and {len(found) - MAX_LISTED} more, in manifest.json", file=sys.stderr)
