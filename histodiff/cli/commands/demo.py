"""``histodiff demo``."""

from pathlib import Path

from histodiff.cli.call import Call
from histodiff.cli.commands.run import print_plan
from histodiff.cli.failures import ExitCode
from histodiff.cli.results import print_artifacts
from histodiff.workflows.demo import INPUTS, demo, demo_pipeline


def execute(call: Call) -> ExitCode:
    """Runs the chain on generated slides and prints where the report is."""
    if call.typed.dry_run:
        inputs = Path(call.site.root) / INPUTS
        slides, labelled = inputs / "slides", inputs / "labelled" / "patches.csv"
        return print_plan(demo_pipeline(slides, labelled, call.overrides), call)
    artifacts = demo(call.site, call.overrides)
    return print_artifacts(artifacts, as_json=call.typed.as_json, out=call.out)
