"""``histodiff inspect ARTIFACT``."""

from histodiff.cli.call import Call
from histodiff.cli.failures import ExitCode
from histodiff.cli.results import print_json
from histodiff.workflows.inspect import described, inspect


def execute(call: Call) -> ExitCode:
    """Prints what is known of the artifact."""
    call.refuse_overrides("inspect")
    facts = inspect(call.typed.target, call.site)
    if call.typed.as_json:
        print_json(facts, out=call.out)
    else:
        print(described(facts), file=call.out)
    return ExitCode.DONE
