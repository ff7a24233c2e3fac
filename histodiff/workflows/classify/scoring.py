"""What a classifier says of held-out patches: metrics per split, and every prediction.

``metrics.json`` has an entry per scored split. Those of the test split are at the top level too,
where it was scored. ``predictions.parquet`` has a row per patch of every scored split, so that
statistics never need the classifier again. Legend of suffixes: N patches, K classes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from histodiff.artifacts import UnitIssue
from histodiff.classification.images import RealImages, labelled_patches, read_real
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.evaluation.metrics import (
    Scored,
    bootstrap_intervals,
    metric_values,
    positive_class,
    slide_level,
)
from histodiff.runtime import generator_for
from histodiff.storage import StoragePath, write_bytes
from histodiff.workflows.classify.config import ClassifyConfig
from histodiff.workflows.classify.opened import Predictor
from histodiff.workflows.tables import write_table

METRICS_FILE, PREDICTIONS = "metrics.json", "predictions.parquet"

_IN_CONTENTS = {
    "val": {f"val_{name}": name for name in ("balanced_accuracy", "auc", "log_loss")},
    "test": {name: name for name in ("accuracy", "balanced_accuracy", "auc")},
}
"""Metrics per patch that the manifest repeats, by their name there."""


@dataclass(frozen=True)
class ScoredSplit:
    """Predictions for the labelled patches of one split."""

    split: str
    read: RealImages
    scored: Scored


def scored_splits(
    config: ClassifyConfig, index: PatchIndex, predict: Predictor
) -> list[ScoredSplit]:
    """Every split that the config names, each patch looked at once."""
    return [_scored_split(index, split, predict) for split in config.splits]


def interim_metrics(index: PatchIndex, predict: Predictor) -> dict[str, float]:
    """Metrics on validation patches that are defined, as ``val_<name>``: of a training midway."""
    scored = _scored_split(index, "val", predict).scored
    return {
        f"val_{name}": value
        for name, value in metric_values(scored, positive=None).items()
        if value is not None
    }


def _scored_split(index: PatchIndex, split: str, predict: Predictor) -> ScoredSplit:
    read = read_real(index, labelled_patches(index, split=split), classes=index.classes)
    slides = index.patches["slide_id"].take(read.patches_N).to_pylist()
    scored = Scored(predict(read.images.pixels_NHWC), read.images.target_N, tuple(slides))
    return ScoredSplit(split, read, scored)


def failures(splits: Sequence[ScoredSplit]) -> tuple[UnitIssue, ...]:
    """Held-out patches that could not be read."""
    return tuple(issue for each in splits for issue in each.read.failed)


def metrics_of(
    config: ClassifyConfig, index: PatchIndex, splits: Sequence[ScoredSplit]
) -> dict[str, Any]:
    """Values and 95 % intervals per patch and per slide of every split; of the test, on top too."""
    positive = positive_class(index.classes, config.positive)
    records = {each.split: _record(config, each, positive) for each in splits}
    top = {}
    if "test" in records:
        test = dict(records["test"])
        top = {f"test_{name}": test.pop(name) for name in ("patches", "slides")} | test
    return {
        **top,
        **records,
        "splits": list(config.splits),
        "positive": None if positive is None else index.classes[positive],
        "classes": list(index.classes),
    }


def _record(config: ClassifyConfig, each: ScoredSplit, positive: int | None) -> dict[str, Any]:
    # the test keeps the stream that it had before there were other splits
    purpose = "bootstrap" if each.split == "test" else f"bootstrap-{each.split}"
    rng = generator_for(config.seed, purpose)
    record: dict[str, Any] = {}
    for level, scored in (("patch", each.scored), ("slide", slide_level(each.scored))):
        record[level] = None if scored is None else metric_values(scored, positive=positive)
        record[f"{level}_interval"] = (
            None
            if scored is None
            else bootstrap_intervals(
                scored, positive=positive, replicates=config.bootstrap, rng=rng
            )
        )
    record["patches"] = len(each.scored.target_N)
    record["slides"] = len(set(each.scored.slide_N))
    return record


def contents_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of the scores."""
    found: dict[str, Any] = {}
    for split in metrics["splits"]:
        found[f"{split}_patches"] = metrics[split]["patches"]
        found[f"{split}_slides"] = metrics[split]["slides"]
        found |= {name: metrics[split]["patch"][own] for name, own in _IN_CONTENTS[split].items()}
    return found


def write_metrics(path: StoragePath, metrics: Mapping[str, Any]) -> None:
    """Writes ``metrics.json``."""
    write_bytes(path / METRICS_FILE, (json.dumps(dict(metrics), indent=2) + "\n").encode())


def write_predictions(path: StoragePath, index: PatchIndex, splits: Sequence[ScoredSplit]) -> None:
    """Writes ``predictions.parquet``: the splits one after the other."""
    patches = np.concatenate([each.read.patches_N for each in splits])
    probability_NK = np.concatenate([each.scored.probability_NK for each in splits])
    rows = index.patches.take(patches)
    named = [each.split for each in splits for _ in range(len(each.read.patches_N))]
    write_table(
        path / PREDICTIONS,
        {
            "patch": patches,
            "slide_id": rows["slide_id"],
            "patient_id": rows["patient_id"],
            "split": pa.array(named, pa.string()),
            "label": rows["label"],
            "predicted": [index.classes[k] for k in probability_NK.argmax(axis=1)],
            **{
                f"probability.{label}": probability_NK[:, number]
                for number, label in enumerate(index.classes)
            },
        },
    )
