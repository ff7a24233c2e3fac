"""A driver of ``sweep`` over toy commands: ``python -m tests.support.sweep_driver ROOT RAY``.

Every trial of a classifier notes ``begun NAME`` and ``ended NAME`` in ``ROOT/log``. Where
``ROOT/hold`` is there, the third one that begins waits to be killed.
"""

import sys
import time
from pathlib import Path

from histodiff.artifacts import Artifact
from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.workflows import registry
from histodiff.workflows.sweep import SweepConfig, sweep
from tests.support import toy_commands
from tests.support.toy_commands import (
    TOY_COMMANDS,
    ClassifyConfig,
    SourceConfig,
    estimate,
    source,
)

__all__ = ["ClassifyConfig", "classify", "config", "estimate", "site"]
LOG, HOLD = "log", "hold"
_BEGIN_BEFORE_HOLDING = 3
_COMMANDS = {
    **TOY_COMMANDS,
    "classify": registry.Command(
        "classify", "tests.support.sweep_driver", "ClassifyConfig", "classify", ""
    ),
}


def classify(config: ClassifyConfig, site: Site) -> Artifact:
    root = Path(site.root)
    _note(root, f"begun {config.name}")
    begun = [line for line in _lines(root) if line.startswith("begun")]
    if (root / HOLD).exists() and len(begun) >= _BEGIN_BEFORE_HOLDING:
        time.sleep(600)
    artifact = toy_commands.classify(config, site)
    _note(root, f"ended {config.name}")
    return artifact


def config() -> SweepConfig:
    """Two seeds of a control, and of a guided arm whose scale is chosen on validation."""
    values = {
        "name": "s",
        "version": "1",
        "artifacts": {"tiles": "patches/t@1"},
        "steps": {
            "guide": {"command": "guide", "config": {"scale": 1}, "from": {"patches": "tiles"}},
            "real": {"command": "classify", "config": {"count": 2}, "from": {"patches": "tiles"}},
            "guided": {
                "command": "classify",
                "config": {"count": 2, "ratio": 0.5},
                "from": {"patches": "tiles", "guide": "guide"},
            },
        },
        "search": {"scale": {"sets": ["guide.scale"], "values": [1.0, 2.0]}},
        "seeds": [0, 1],
        "arms": [{"label": "real only", "step": "real"}, {"label": "guided", "step": "guided"}],
        "control": "real only",
        "choose": {"axes": ["scale"], "metric": "accuracy"},
    }
    return parse_config(SweepConfig, values, source="s.yaml")


def site(root: Path, ray: str) -> Site:
    """The site of the driver."""
    how = {"type": "local", "num_cpus": 1} if ray == "local" else {"type": ray}
    return Site.model_validate({"root": str(root), "ray": how, "device": "cpu"})


def use_commands(commands: dict[str, registry.Command]) -> None:
    """Puts the toy commands in place of those that they are called like."""
    commands.update(_COMMANDS)


def _note(root: Path, line: str) -> None:
    with (root / LOG).open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")


def _lines(root: Path) -> list[str]:
    return (root / LOG).read_text().splitlines()


if __name__ == "__main__":
    place = site(Path(sys.argv[1]), sys.argv[2])
    use_commands(registry.COMMANDS)
    source(SourceConfig(name="t", version="1", text="x"), place)
    sweep(config(), place)
