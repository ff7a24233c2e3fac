"""Every shipped config, resolved: what ``tests/golden/configs`` holds.

``python -m tests.support.golden_configs`` writes them anew; the difference belongs into the change
that caused it.
"""

import json
from pathlib import Path
from typing import Any

from histodiff.cluster.site import Site
from histodiff.config import Config, load_config
from histodiff.config.loader import read_yaml, shipped_configs
from histodiff.workflows.registry import COMMANDS, load
from histodiff.workflows.run import Pipeline, load_pipeline, resolve_pipeline

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "configs"


def shipped() -> list[str]:
    """Relative paths of all configs, sorted."""
    root = shipped_configs()
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.yaml"))


def resolved(name: str) -> dict[str, Any]:
    """The config with every default filled in, JSON-ready; of a pipeline, with all its steps."""
    path = shipped_configs() / name
    folder = name.split("/")[0]
    if folder == "site":
        return _dumped(load_config(Site, path))
    command = COMMANDS.get("tile" if folder == "datasets" else folder)
    if command is not None:
        return _dumped(load_config(load(command).config_class, path))
    return _resolved_pipeline(path)


def golden_path(name: str) -> Path:
    """The file that holds the golden value."""
    return GOLDEN / f"{name.removesuffix('.yaml')}.json"


def text_of(value: dict[str, Any]) -> str:
    """As it is stored."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _resolved_pipeline(path: Path) -> dict[str, Any]:
    """Steps of a pipeline; inputs that a user must give get a name of their own."""
    open_inputs = [key for key, value in read_yaml(path).get("inputs", {}).items() if value is None]
    given = [f"inputs.{key}=/given/{key}" for key in open_inputs]
    pipeline: Pipeline = load_pipeline(path, given)
    return {
        "inputs": pipeline.config.inputs,
        "steps": {step.name: _dumped(step.config) for step in resolve_pipeline(pipeline)},
    }


def _dumped(config: Config) -> dict[str, Any]:
    values: dict[str, Any] = config.model_dump(mode="json")
    return values


def main() -> None:
    """Writes every golden config, and removes those of configs that are gone."""
    wanted = {golden_path(name): text_of(resolved(name)) for name in shipped()}
    for path in GOLDEN.rglob("*.json"):
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
