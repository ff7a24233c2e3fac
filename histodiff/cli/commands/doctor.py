"""``histodiff doctor``."""

import os
from dataclasses import asdict

from histodiff.cli.call import Call
from histodiff.cli.failures import ExitCode
from histodiff.cli.results import print_json
from histodiff.workflows.doctor import apt_line, described, doctor


def execute(call: Call) -> ExitCode:
    """Prints the checks; fails when something required is missing."""
    call.refuse_overrides("doctor")
    checks = doctor(call.site, os.environ)
    if call.typed.as_json:
        rows = [asdict(check) for check in checks]
        print_json({"checks": rows, "install": apt_line(checks)}, out=call.out)
    else:
        print(described(checks), file=call.out)
    missing = any(check.required and not check.ok for check in checks)
    return ExitCode.USER if missing else ExitCode.DONE
