"""``histodiff fetch NAME``."""

from pathlib import Path

from histodiff.cli.call import Call
from histodiff.cli.failures import ExitCode
from histodiff.cli.results import print_json
from histodiff.config import parse_config
from histodiff.config.loader import apply_overrides
from histodiff.workflows.fetch import GeneratedSize, fetch


def execute(call: Call) -> ExitCode:
    """Writes the data set and prints what to read next."""
    name = call.typed.target
    size = parse_config(GeneratedSize, apply_overrides({}, call.overrides), source=f"fetch {name}")
    paths = fetch(name, Path(call.typed.folder or f"data/{name}"), size=size)
    if call.typed.as_json:
        print_json({"paths": [str(path) for path in paths]}, out=call.out)
    else:
        print("\n".join(str(path) for path in paths), file=call.out)
    return ExitCode.DONE
