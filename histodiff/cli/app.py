"""The typer application: which commands there are, and their arguments and options.

Only typer and the command table are imported here, so that ``--help`` is quick. Everything else,
``execution`` first, is imported when a command runs.
"""

from importlib import import_module

import typer

from histodiff.cli.options import (
    BenchOptionsArgument,
    ConfigArgument,
    DryRunOption,
    ExportOptionsArgument,
    Invocation,
    JsonOption,
    LocalOption,
    MeasureOption,
    OverridesArgument,
    ReferenceArgument,
    SiteOption,
)
from histodiff.workflows.registry import COMMANDS, Command

_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(
    name="histodiff",
    help="Latent diffusion for histopathology: slides and a few labels in, a report out.",
    epilog="Every command continues where it was interrupted when it is run again.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main() -> None:
    """Runs the command line and exits with its code."""
    app(prog_name="histodiff")


def _execute(action: str, invocation: Invocation) -> None:
    """Runs ``histodiff.cli.execution.<action>(invocation)`` and exits with its code."""
    execution = import_module("histodiff.cli.execution")
    raise typer.Exit(execution.execute(action, invocation))


def _register_artifact_command(command: Command) -> None:
    def run_command(
        config: ConfigArgument,
        overrides: OverridesArgument = None,
        site: SiteOption = None,
        as_json: JsonOption = False,
        dry_run: DryRunOption = False,
        local: LocalOption = False,
    ) -> None:
        typed = Invocation(config, tuple(overrides or ()), site, as_json, dry_run, local)
        _execute(command.name, typed)

    explained = (
        f"{command.help}\n\nThe keys of its config: histodiff schema {command.name}."
        f" Configs that ship with histodiff: configs/{command.name}/."
    )
    app.command(command.name, help=explained, short_help=command.help)(run_command)


for _known in COMMANDS.values():
    _register_artifact_command(_known)


@app.command("run")
def _run(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    site: SiteOption = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    local: LocalOption = False,
) -> None:
    """Run a pipeline: steps that read one another's artifacts."""
    _execute("run", Invocation(config, tuple(overrides or ()), site, as_json, dry_run, local))


@app.command("demo")
def _demo(
    overrides: OverridesArgument = None,
    site: SiteOption = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    local: LocalOption = False,
) -> None:
    """The whole chain on generated slides, on this CPU."""
    _execute("demo", Invocation("", tuple(overrides or ()), site, as_json, dry_run, local))


@app.command("submit", context_settings=_PASS_THROUGH)
def _submit(
    context: typer.Context,
    command: str = typer.Argument(metavar="COMMAND", help="Any other command, as typed here."),
    site: str | None = typer.Option(
        None, "--site", metavar="SITE.yaml", help="Which cluster. [default: site/cluster.yaml]"
    ),
) -> None:
    """Run a command on a Ray cluster and stream its log."""
    _execute("submit", Invocation(command, tuple(context.args), site))


@app.command("plan")
def _plan(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    site: SiteOption = None,
    as_json: JsonOption = False,
    measure: MeasureOption = False,
    local: LocalOption = False,
) -> None:
    """What a config or a pipeline would cost."""
    typed = Invocation(config, tuple(overrides or ()), site, as_json, local=local, measure=measure)
    _execute("plan", typed)


@app.command("inspect")
def _inspect(
    artifact: ReferenceArgument,
    overrides: OverridesArgument = None,
    site: SiteOption = None,
    as_json: JsonOption = False,
) -> None:
    """What an artifact is, holds, and was made from."""
    _execute("inspect", Invocation(artifact, tuple(overrides or ()), site, as_json))


@app.command("verify")
def _verify(
    artifact: ReferenceArgument,
    overrides: OverridesArgument = None,
    site: SiteOption = None,
    as_json: JsonOption = False,
    reencode: int = typer.Option(
        8, "--reencode", min=0, metavar="N", help="Rows of a latent store that are encoded again."
    ),
) -> None:
    """Check an artifact byte for byte."""
    arguments = tuple(overrides or ())
    _execute("verify", Invocation(artifact, arguments, site, as_json, reencode=reencode))


@app.command("export")
def _export(
    artifact: ReferenceArgument,
    overrides: ExportOptionsArgument = None,
    site: SiteOption = None,
    as_json: JsonOption = False,
) -> None:
    """A denoiser as a folder that plain diffusers opens, with a model card."""
    _execute("export", Invocation(artifact, tuple(overrides or ()), site, as_json))


@app.command("bench")
def _bench(
    name: str = typer.Argument("", metavar="[NAME]", help="Which bench; none lists them."),
    options: BenchOptionsArgument = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what is achieved against the limit."""
    _execute("bench", Invocation(name, tuple(options or ()), as_json=as_json))


@app.command("doctor")
def _doctor(
    overrides: OverridesArgument = None, site: SiteOption = None, as_json: JsonOption = False
) -> None:
    """What would be used here, and what is missing."""
    _execute("doctor", Invocation("", tuple(overrides or ()), site, as_json))


@app.command("fetch")
def _fetch(
    name: str = typer.Argument(metavar="NAME", help="What to fetch; 'generated' needs no network."),
    overrides: OverridesArgument = None,
    folder: str | None = typer.Option(
        None, "--to", metavar="FOLDER", help="Where to put it. [default: data/NAME]"
    ),
    as_json: JsonOption = False,
) -> None:
    """Sample data: generated, or public with pinned hashes."""
    arguments = tuple(overrides or ())
    _execute("fetch", Invocation(name, arguments, as_json=as_json, folder=folder))


@app.command("schema")
def _schema(
    name: str = typer.Argument(metavar="COMMAND", help="A command, or 'site'."),
) -> None:
    """JSON schema of a command's config: its keys."""
    _execute("schema", Invocation(name, as_json=True))
