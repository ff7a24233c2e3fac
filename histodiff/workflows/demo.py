"""``demo``: the whole chain on generated slides, on this machine's CPU, in minutes.

Writes slides and labelled patches below the root and runs ``configs/pipelines/demo.yaml`` on them:
what a user would type with data of their own is exactly the same.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from histodiff.artifacts import Artifact, Kind
from histodiff.cluster.site import Site
from histodiff.config import find_config
from histodiff.errors import ConfigError
from histodiff.storage import is_local
from histodiff.workflows.fetch import GeneratedSize, fetch
from histodiff.workflows.report.command import PAGE
from histodiff.workflows.run import Pipeline, load_pipeline, run_pipeline

PIPELINE = "pipelines/demo.yaml"
INPUTS = "inputs"
SIZE = GeneratedSize(slides=8, size_px=1536)
"""Enough tissue for a demo, drawn in ten seconds."""


def demo(
    site: Site, overrides: Sequence[str] = (), *, size: GeneratedSize = SIZE
) -> list[Artifact]:
    """Generates the inputs, runs the pipeline, and says where the report is.

    Raises:
        ConfigError: The root is no folder of this machine.
    """
    if not is_local(site.storage_root):
        raise ConfigError(
            f"root {site.root}: the demo writes slides into a local folder; set root to one"
        )
    folder = Path(site.storage_root.path) / INPUTS
    print(f"generated slides and labelled patches -> {folder}", file=sys.stderr, flush=True)
    slides, labelled = fetch("generated", folder, size=size)
    artifacts = run_pipeline(demo_pipeline(slides, labelled, overrides), site)
    for page in report_pages(artifacts):
        print(f"the report is at {page}", file=sys.stderr, flush=True)
    return artifacts


def demo_pipeline(slides: Path, labelled: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """The pipeline of the demo on the given inputs."""
    given = [f"inputs.slides={slides}", f"inputs.labelled={labelled}"]
    return load_pipeline(find_config(PIPELINE), [*given, *overrides])


def report_pages(artifacts: Sequence[Artifact]) -> list[str]:
    """Where the reports among the artifacts have their pages."""
    return [str(item.path / PAGE) for item in artifacts if item.manifest.kind == Kind.REPORTS]
