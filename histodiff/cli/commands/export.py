"""``histodiff export ARTIFACT folder=... license=...``."""

from dataclasses import asdict

from histodiff.cli.call import Call
from histodiff.cli.failures import ExitCode
from histodiff.cli.results import print_json
from histodiff.config import parse_config
from histodiff.config.loader import apply_overrides
from histodiff.workflows.export import ExportConfig, export


def execute(call: Call) -> ExitCode:
    """Writes the folder and prints where it is."""
    address = call.typed.target
    config = parse_config(
        ExportConfig, apply_overrides({}, call.overrides), source=f"export {address}"
    )
    exported = export(address, config, call.site)
    if call.typed.as_json:
        print_json(asdict(exported), out=call.out)
    else:
        print(exported.folder, file=call.out)
    return ExitCode.DONE
