"""``histodiff schema COMMAND``."""

from histodiff.cli.call import Call
from histodiff.cli.failures import ExitCode
from histodiff.cli.results import print_json
from histodiff.workflows.schema import schema


def execute(call: Call) -> ExitCode:
    """Prints the JSON schema."""
    print_json(schema(call.typed.target), out=call.out)
    return ExitCode.DONE
