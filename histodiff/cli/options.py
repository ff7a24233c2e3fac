"""Arguments and options that commands share, so that each is spelled and explained once."""

from dataclasses import dataclass
from typing import Annotated

import typer

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG.yaml", help="Config file, or the name of a shipped one.")
]
BenchOptionsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value ...]", help="slide=PATH: another slide for `tile`."),
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY.PATH=VALUE]...",
        help="Values that replace those of the config; 'site.<key>=value' sets the site's.",
        show_default=False,
    ),
]
ExportOptionsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="folder=FOLDER license=ID [KEY=VALUE]...",
        help="folder and license are needed; autoencoder, snapshot, steps and seed have defaults.",
        show_default=False,
    ),
]
SiteOption = Annotated[
    str | None,
    typer.Option("--site", metavar="SITE.yaml", help="Where to run. [default: site/laptop.yaml]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
]
LocalOption = Annotated[bool, typer.Option("--local", help="Everything in this process: no Ray.")]
MeasureOption = Annotated[
    bool,
    typer.Option(
        "--measure",
        help="Encode a small sample here, for its speed; measure_seconds=N says for how long.",
    ),
]
ReferenceArgument = Annotated[
    str, typer.Argument(metavar="ARTIFACT", help="kind/name@version, or its folder or URL.")
]


@dataclass(frozen=True)
class Invocation:
    """What was typed behind the name of a command."""

    target: str = ""
    """The command's subject: a config, an artifact, a name."""
    overrides: tuple[str, ...] = ()
    """``key.path=value`` arguments, those of the site among them."""
    site: str | None = None
    """Site file or name."""
    as_json: bool = False
    """Print one JSON object."""
    dry_run: bool = False
    """Plan only."""
    local: bool = False
    """No Ray."""
    measure: bool = False
    """Measure speeds on a sample."""
    folder: str | None = None
    """Folder to write to, of commands that write no artifact."""
    reencode: int = 0
    """Rows that are encoded again."""
