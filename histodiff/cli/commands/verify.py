"""``histodiff verify ARTIFACT``."""

from histodiff.cli.call import Call
from histodiff.cli.failures import ExitCode
from histodiff.cli.results import print_json
from histodiff.workflows.verify import verify


def execute(call: Call) -> ExitCode:
    """Prints every problem of the artifact; fails when there is one."""
    call.refuse_overrides("verify")
    problems = verify(call.typed.target, call.site, reencode=call.typed.reencode)
    if call.typed.as_json:
        print_json({"artifact": call.typed.target, "problems": problems}, out=call.out)
    else:
        print("\n".join(problems) or f"{call.typed.target}: intact", file=call.out)
    return ExitCode.USER if problems else ExitCode.DONE
