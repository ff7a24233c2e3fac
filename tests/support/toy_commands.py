"""Commands that take no time: they write real artifacts, so pipelines and sweeps can be tested."""

import json
from typing import Annotated, ClassVar

from histodiff.artifacts import Artifact, CommandConfig, Kind, Reference, begin, open_artifact
from histodiff.cluster.site import Site
from histodiff.config import Location
from histodiff.errors import ConfigError
from histodiff.runtime.interim import offer_interim
from histodiff.storage import write_bytes
from histodiff.workflows.registry import Command

SOURCE = Command("tile", "tests.support.toy_commands", "SourceConfig", "source", "")
GUIDE = Command("guide", "tests.support.toy_commands", "GuideConfig", "guide", "")
CLASSIFY = Command("classify", "tests.support.toy_commands", "ClassifyConfig", "classify", "")
TOY_COMMANDS = {command.name: command for command in (SOURCE, GUIDE, CLASSIFY)}


class SourceConfig(CommandConfig):
    artifact_kind: ClassVar[Kind] = Kind.PATCHES
    text: str

    def inputs(self) -> dict[str, Reference]:
        return {}


class GuideConfig(CommandConfig):
    artifact_kind: ClassVar[Kind] = Kind.GUIDES
    patches: Annotated[Reference, Location()]
    seed: int
    scale: float

    def inputs(self) -> dict[str, Reference]:
        return {"patches": self.patches.as_kind(Kind.PATCHES)}


class ClassifyConfig(CommandConfig):
    artifact_kind: ClassVar[Kind] = Kind.CLASSIFIERS
    patches: Annotated[Reference, Location()]
    guide: Annotated[Reference | None, Location()] = None
    seed: int
    count: int
    ratio: float = 0.0
    splits: tuple[str, ...] = ("val", "test")
    fails: bool = False

    def inputs(self) -> dict[str, Reference]:
        given = {"patches": self.patches.as_kind(Kind.PATCHES)}
        return given if self.guide is None else {**given, "guide": self.guide.as_kind(Kind.GUIDES)}


def source(config: SourceConfig, site: Site) -> Artifact:
    draft = begin(site.storage_root, config)
    if draft.finished:
        return draft.finished
    write_bytes(draft.path / "text.txt", config.text.encode())
    return draft.finish({})


def guide(config: GuideConfig, site: Site) -> Artifact:
    opened = {k: open_artifact(site.storage_root, v) for k, v in config.inputs().items()}
    draft = begin(site.storage_root, config, inputs=opened)
    if draft.finished:
        return draft.finished
    if config.scale < 0:
        raise ConfigError("scale is negative")
    write_bytes(draft.path / "guide.txt", f"{config.scale} {config.seed}".encode())
    return draft.finish({})


def classify(config: ClassifyConfig, site: Site) -> Artifact:
    opened = {k: open_artifact(site.storage_root, v) for k, v in config.inputs().items()}
    draft = begin(site.storage_root, config, inputs=opened)
    if draft.finished:
        return draft.finished
    if config.fails:
        raise RuntimeError("a bug")
    accuracy = 0.5 + 0.01 * config.count + 0.001 * config.seed + 0.1 * config.ratio
    patch = {"accuracy": accuracy, "auc": None}
    val = {"accuracy": 1.0 - accuracy, "log_loss": 3.0 - accuracy}
    for step in range(1, 8):
        offer_interim(step / 8, lambda: {f"val_{name}": value for name, value in val.items()})
    metrics: dict[str, dict[str, object]] = {}
    if "val" in config.splits:
        metrics["val"] = {"patch": val}
    if "test" in config.splits:
        metrics |= {"test": {"patch": patch}, "patch": patch}
    write_bytes(draft.path / "metrics.json", json.dumps(metrics).encode())
    return draft.finish({})


def estimate(config: CommandConfig, site: Site) -> dict[str, float | int | str]:
    del config, site
    return {"units": 1}
