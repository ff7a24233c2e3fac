"""A command line with its arguments told apart, as commands receive it."""

from dataclasses import dataclass
from typing import TextIO

from histodiff.cli.options import Invocation
from histodiff.cluster.site import Site, load_site
from histodiff.errors import ConfigError

SITE_PREFIX = "site."


@dataclass(frozen=True)
class Call:
    """One run of one command."""

    typed: Invocation
    overrides: tuple[str, ...]
    """Overrides of the config: those that are not the site's."""
    site: Site
    out: TextIO
    """For the result alone; becomes stdout when the command has ended."""

    def refuse_overrides(self, command: str) -> None:
        """Raises ConfigError if there are overrides, for commands without a config."""
        if self.overrides:
            raise ConfigError(f"{command}: '{self.overrides[0]}': takes site.<key>=value only")


def call_of(typed: Invocation, out: TextIO, *, default_site: str | None = None) -> Call:
    """The call that was typed, with its site loaded."""
    own = tuple(item for item in typed.overrides if not item.startswith(SITE_PREFIX))
    of_site = [
        item.removeprefix(SITE_PREFIX) for item in typed.overrides if item.startswith(SITE_PREFIX)
    ]
    site = load_site(typed.site or default_site, of_site, local=typed.local)
    return Call(typed, own, site, out)
