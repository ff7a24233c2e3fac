"""Runs one command: loads config and site, calls the workflow, prints its result.

While a command runs, everything that vendors print goes to stderr; stdout carries the result alone.
"""

import io
import os
import sys
from contextlib import redirect_stdout
from importlib import import_module
from typing import TextIO

from histodiff.cli.call import Call, call_of
from histodiff.cli.dry_run import dry_run, print_dry_run
from histodiff.cli.failures import ExitCode, guarded
from histodiff.cli.options import Invocation
from histodiff.cli.results import print_artifact
from histodiff.config import find_config, load_config
from histodiff.credentials import refuse_secret
from histodiff.telemetry import configure_logging
from histodiff.workflows.registry import COMMANDS, find_command, load

SUBMIT_SITE = "site/cluster.yaml"


def execute(command: str, typed: Invocation) -> int:
    """Runs the command and returns its exit code; errors are explained on stderr."""
    configure_logging()
    result = io.StringIO()
    with redirect_stdout(sys.stderr):
        code = guarded(lambda: _dispatch(command, typed, result))
    _write_stdout(result.getvalue())
    return code


def _write_stdout(text: str) -> None:
    """Writes the result; a reader that left early (``| head``) is no error of ours."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(command: str, typed: Invocation, out: TextIO) -> int:
    for word in (typed.target, *typed.overrides, typed.site or "", typed.folder or ""):
        refuse_secret(word, where=command)
    call = call_of(typed, out, default_site=SUBMIT_SITE if command == "submit" else None)
    if command in COMMANDS:
        return _write_artifact(command, call)
    code: int = import_module(f"histodiff.cli.commands.{command}").execute(call)
    return code


def _write_artifact(name: str, call: Call) -> ExitCode:
    command = load(find_command(name))
    config = load_config(command.config_class, find_config(call.typed.target), call.overrides)
    if call.typed.dry_run:
        plan = dry_run(command, config, call.site)
        print_dry_run(plan, as_json=call.typed.as_json, out=call.out)
        return ExitCode.DONE
    artifact = command.function(config, call.site)
    return print_artifact(artifact, as_json=call.typed.as_json, out=call.out)
