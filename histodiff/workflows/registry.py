"""The table of the commands that write artifacts: name, module, config class and function.

Modules are imported by ``load`` only when a command is used, so that ``--help`` and a pipeline's
validation of one step do not pay for torch. This is the one licensed local import of the code base.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from histodiff.errors import ConfigError

if TYPE_CHECKING:  # the command line reads this table for --help, which loads nothing heavy
    from histodiff.artifacts import Artifact, CommandConfig
    from histodiff.cluster.site import Site

Estimate = dict[str, float | int | str]
"""What a command would do: units, patches, bytes, in plain numbers and words."""


@dataclass(frozen=True)
class Command:
    """Where a command lives."""

    name: str
    module: str
    config: str
    function: str
    help: str


@dataclass(frozen=True)
class LoadedCommand:
    """A command, imported."""

    name: str
    config_class: type[CommandConfig]
    function: Callable[[Any, Site], Artifact]
    estimate: Callable[[Any, Site], Estimate]


def _command(name: str, help: str) -> Command:
    return Command(name, f"histodiff.workflows.{name}", f"{name.capitalize()}Config", name, help)


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        _command("tile", "Slides or patch sets -> PatchIndex: an index of patches, no pixels."),
        _command("autoencoder", "Import or train an autoencoder."),
        _command("encode", "Pixels -> latent moments in a sharded LatentStore."),
        _command("pretrain", "Train the unconditional denoiser on latents (DeepSpeed)."),
        _command("ceiling", "What perfect samples through an autoencoder would buy a classifier."),
        _command("guide", "A few labels -> a guide that steers sampling."),
        _command("synthesize", "Guided sampling -> images with provenance."),
        _command("select", "Decide which samples may join the training set."),
        _command("classify", "Train and test a classifier on real and selected images."),
        _command("sweep", "guide..classify over settings and seeds (Ray Tune)."),
        _command("report", "One HTML page, and JSON, of what was and was not shown."),
    )
}
"""Every command that writes an artifact, in the order of the chain."""


def find_command(name: str) -> Command:
    """The command called ``name``.

    Raises:
        ConfigError: There is none; lists those there are.
    """
    if name not in COMMANDS:
        raise ConfigError(f"command '{name}': unknown; known: {', '.join(COMMANDS)}")
    return COMMANDS[name]


def load(command: Command) -> LoadedCommand:
    """Imports the command's module."""
    module = import_module(command.module)
    return LoadedCommand(
        command.name,
        getattr(module, command.config),
        getattr(module, command.function),
        module.estimate,
    )
