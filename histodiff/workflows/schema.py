"""``schema``: the JSON schema of a config, for editors and for people who look for a key."""

from typing import Any

from histodiff.cluster.site import Site
from histodiff.config import Config
from histodiff.errors import ConfigError
from histodiff.workflows.registry import COMMANDS, load
from histodiff.workflows.run import PipelineConfig

_OTHERS: dict[str, type[Config]] = {"run": PipelineConfig, "site": Site}


def schema(name: str) -> dict[str, Any]:
    """JSON schema of the config of the command ``name``, of a pipeline (``run``) or of a site.

    Raises:
        ConfigError: There is no such config.
    """
    if name in COMMANDS:
        return load(COMMANDS[name]).config_class.model_json_schema()
    if name in _OTHERS:
        return _OTHERS[name].model_json_schema()
    known = ", ".join([*COMMANDS, *_OTHERS])
    raise ConfigError(f"schema '{name}': no command of that name has a config; known: {known}")
