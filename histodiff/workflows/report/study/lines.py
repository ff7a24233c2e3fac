"""Lines of a study: an arm at one setting, with the stored predictions of its classifiers.

Nothing is trained or scored here: every number on the study page comes from ``predictions.parquet``
of the classifiers that the sweep tabulated. Predictions of before there were splits are of test
patches; where a patient is unknown, its slide stands for it.
"""

import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histodiff.artifacts import open_artifact
from histodiff.errors import ArtifactCorrupt
from histodiff.evaluation.bootstrap import (
    ArmReplicates,
    Predictions,
    UnitWeights,
    replicated,
    unit_weights,
)
from histodiff.evaluation.metrics import Scored, slide_level
from histodiff.runtime import generator_for
from histodiff.storage import StoragePath
from histodiff.workflows.report.comparisons import Settings
from histodiff.workflows.sweep.trial_table import METRICS_FILE, TrialRow

PREDICTIONS = "predictions.parquet"
SPLITS = ("test", "val")
"""The test counts where both sides of a comparison were scored on it."""
_PROBABILITY = "probability."


@dataclass(frozen=True)
class SplitScores:
    """What an arm scored on one split: its classifiers, and its metrics in every replicate."""

    classifiers: Mapping[int, Predictions]
    patch: Mapping[str, ArmReplicates]
    slide: Mapping[str, ArmReplicates] | None
    """None where a slide has patches of several classes."""
    weights: UnitWeights


@dataclass(frozen=True)
class ArmLine:
    """An arm at one setting."""

    arm: str
    settings: Settings
    chosen: Sequence[Mapping[str, Any]]
    """Values of the axes that were chosen on validation; none where nothing was."""
    validation: Mapping[str, float]
    """Means over label draws of the metrics on validation patches, by their plain names."""
    scores: Mapping[str, SplitScores]

    @property
    def split(self) -> str:
        """The split that the line's own numbers are of."""
        return next(split for split in SPLITS if split in self.scores)


@dataclass(frozen=True)
class StudyData:
    """All lines, and what their classes are."""

    lines: Sequence[ArmLine]
    classes: tuple[str, ...]
    positive: int | None


def study_data(
    root: StoragePath, rows: Sequence[TrialRow], *, replicates: int, seed: int
) -> StudyData:
    """The lines of every arm, in order of first appearance.

    Args:
        root: Where the classifiers lie.
        rows: Trials of the sweep.
        replicates: Of the bootstrap.
        seed: Decides the replicates.

    Raises:
        ArtifactCorrupt: Classifiers of one seed scored different patches.
    """
    grouped: defaultdict[tuple[str, str], list[TrialRow]] = defaultdict(list)
    for row in rows:
        ended = row.error is None and row.stopped is None and row.seed is not None
        if row.arm is not None and row.command == "classify" and ended:
            grouped[row.arm, json.dumps(dict(row.axes), sort_keys=True)].append(row)
    if not grouped:
        return StudyData((), (), None)
    first = next(iter(grouped.values()))[0]
    record = json.loads((open_artifact(root, first.artifact).path / METRICS_FILE).read_bytes())
    classes, named = tuple(record["classes"]), record.get("positive")
    positive = None if named is None else classes.index(named)
    read = {key: _read(root, group, classes) for key, group in grouped.items()}
    _require_equal_patches(read.values())
    weights = {
        split: _weights(
            [found for arm in read.values() for found in arm.get(split, {}).values()],
            replicates=replicates,
            rng=generator_for(seed, "patients", split),
        )
        for split in SPLITS
        if any(split in arm for arm in read.values())
    }
    return StudyData(
        [_line(group, read[key], weights, positive) for key, group in grouped.items()],
        classes,
        positive,
    )


def _line(
    group: Sequence[TrialRow],
    read: Mapping[str, Mapping[int, Predictions]],
    weights: Mapping[str, UnitWeights],
    positive: int | None,
) -> ArmLine:
    chosen = [dict(row.chosen) for row in group if row.chosen]
    names = {name for row in group for name in row.metrics if name.startswith("val_")}
    validation = {
        name.removeprefix("val_"): float(np.mean([row.metrics[name] for row in group]))
        for name in sorted(names)
        if all(name in row.metrics for row in group)
    }
    return ArmLine(
        arm=str(group[0].arm),
        settings=dict(group[0].axes),
        chosen=[one for place, one in enumerate(chosen) if one not in chosen[:place]],
        validation=validation,
        scores={split: _scores(found, weights[split], positive) for split, found in read.items()},
    )


def _scores(
    classifiers: Mapping[int, Predictions], weights: UnitWeights, positive: int | None
) -> SplitScores:
    slides = {seed: by_slide(found) for seed, found in classifiers.items()}
    per_slide = {seed: found for seed, found in slides.items() if found is not None}
    complete = len(per_slide) == len(slides)
    return SplitScores(
        classifiers,
        replicated(classifiers, weights, positive=positive),
        replicated(per_slide, weights, positive=positive) if complete else None,
        weights,
    )


def by_slide(found: Predictions) -> Predictions | None:
    """The same with a row per slide; None where a slide has patches of several classes."""
    slides = slide_level(found.scored)
    if slides is None:
        return None
    unit_of = dict(zip(found.scored.slide_N, found.unit_N, strict=True))
    return Predictions(slides, tuple(unit_of[slide] for slide in slides.slide_N), slides.slide_N)


def _read(
    root: StoragePath, group: Sequence[TrialRow], classes: Sequence[str]
) -> dict[str, dict[int, Predictions]]:
    """Predictions of an arm by split and seed."""
    found: defaultdict[str, dict[int, Predictions]] = defaultdict(dict)
    for row in group:
        data = (open_artifact(root, row.artifact).path / PREDICTIONS).read_bytes()
        table = pq.read_table(io.BytesIO(data))
        for split in SPLITS:
            part = _of_split(table, split)
            if part.num_rows:
                assert row.seed is not None
                found[split][row.seed] = _predictions(part, classes)
    return dict(found)


def _of_split(table: pa.Table, split: str) -> pa.Table:
    if "split" not in table.column_names:
        return table if split == "test" else table.slice(0, 0)
    return table.filter(pc.equal(table["split"], split))


def _predictions(table: pa.Table, classes: Sequence[str]) -> Predictions:
    probability_NK = np.stack(
        [table[f"{_PROBABILITY}{label}"].to_numpy() for label in classes], axis=1
    ).astype(np.float64)
    numbers = {label: number for number, label in enumerate(classes)}
    target_N = np.array([numbers[label] for label in table["label"].to_pylist()], np.int64)
    slides = tuple(table["slide_id"].to_pylist())
    patients = slides
    if "patient_id" in table.column_names:
        named = table["patient_id"].to_pylist()
        patients = tuple(own or slide for own, slide in zip(named, slides, strict=True))
    items = tuple(str(number) for number in table["patch"].to_pylist())
    return Predictions(Scored(probability_NK, target_N, slides), patients, items)


def _require_equal_patches(arms: Iterable[Mapping[str, Mapping[int, Predictions]]]) -> None:
    """Arms are paired by seed: both must have scored the same patches."""
    seen: dict[tuple[str, int], frozenset[str]] = {}
    for arm in arms:
        for split, classifiers in arm.items():
            for seed, found in classifiers.items():
                items = frozenset(found.item_N)
                if seen.setdefault((split, seed), items) != items:
                    raise ArtifactCorrupt(
                        f"classifiers of seed {seed} scored different patches of the {split} split;"
                        " give all arms of the sweep the same `patches` and splits"
                    )


def _weights(
    all_predictions: Sequence[Predictions], *, replicates: int, rng: np.random.Generator
) -> UnitWeights:
    """Weights of patients, drawn within the class that most of their patches have."""
    labels: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for found in all_predictions:
        for unit, label in zip(found.unit_N, found.scored.target_N.tolist(), strict=True):
            labels[unit][label] += 1
    stratum = {
        unit: min(count, key=lambda label: (-count[label], label)) for unit, count in labels.items()
    }
    return unit_weights(stratum, replicates=replicates, rng=rng)
