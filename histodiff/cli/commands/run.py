"""``histodiff run PIPELINE.yaml``."""

from histodiff.cli.call import Call
from histodiff.cli.dry_run import print_dry_run
from histodiff.cli.failures import ExitCode
from histodiff.cli.results import print_artifacts
from histodiff.config import find_config
from histodiff.workflows.run import Pipeline, load_pipeline, plan_pipeline, run_pipeline, summary


def execute(call: Call) -> ExitCode:
    """Runs the pipeline, or says what each of its steps would do."""
    pipeline = load_pipeline(find_config(call.typed.target), call.overrides)
    if call.typed.dry_run:
        return print_plan(pipeline, call)
    artifacts = run_pipeline(pipeline, call.site)
    return print_artifacts(artifacts, as_json=call.typed.as_json, out=call.out)


def print_plan(pipeline: Pipeline, call: Call) -> ExitCode:
    """Prints the state, inputs and estimate of every step, and the resolved site."""
    plan = {
        "pipeline": f"{pipeline.config.name}@{pipeline.config.version}",
        "inputs": pipeline.config.inputs,
        "steps": summary(list(plan_pipeline(pipeline, call.site))),
        "site": call.site.model_dump(mode="json"),
    }
    print_dry_run(plan, as_json=call.typed.as_json, out=call.out)
    return ExitCode.DONE
