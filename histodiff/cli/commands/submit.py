"""``histodiff submit COMMAND ...``."""

import os

from histodiff.cli.call import Call
from histodiff.cli.execution import SUBMIT_SITE
from histodiff.errors import ConfigError
from histodiff.workflows.registry import COMMANDS
from histodiff.workflows.submit import Submission, submit

_OTHERS = ("run", "demo", "plan", "inspect", "verify", "doctor")


def execute(call: Call) -> int:
    """Runs the command that follows on the cluster, and returns its exit code."""
    command = call.typed.target
    if command not in (*COMMANDS, *_OTHERS):
        known = ", ".join((*COMMANDS, *_OTHERS))
        raise ConfigError(f"submit '{command}': cannot be submitted; known: {known}")
    submission = Submission(command, call.typed.overrides, call.typed.site or SUBMIT_SITE)
    return submit(submission, call.site, environment=os.environ, out=call.out)
