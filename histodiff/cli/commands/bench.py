"""``histodiff bench NAME``."""

from histodiff.cli.call import Call
from histodiff.cli.failures import ExitCode
from histodiff.cli.results import print_json
from histodiff.workflows.bench import BENCHES, bench


def execute(call: Call) -> ExitCode:
    """Runs the bench and prints its object; without a name, the names there are."""
    if call.typed.target:
        print_json(bench(call.typed.target, call.overrides), out=call.out)
    else:
        print_json({"benches": sorted(BENCHES)}, out=call.out)
    return ExitCode.DONE
