"""A finished sweep with a study, of fabricated classifiers whose predictions are made up."""

import json

import numpy as np

from histodiff.artifacts import Kind, Reference
from histodiff.config import parse_config
from histodiff.storage import write_bytes
from histodiff.workflows.sweep import SweepConfig
from histodiff.workflows.sweep.trial_table import TrialRow, write_trials
from histodiff.workflows.tables import write_table
from tests.support.fabricated_run import CLASSES, finished

BUDGETS = (2, 5)
ARMS = ("real only", "pseudo-labels", "variation", "guided", "perfect samples")
STUDY = {
    "question": "Do generated images help a classifier with few labels?",
    "protocol": ["Labels of a few slides; everything else is unlabelled."],
    "family": [
        ["best generative", "real only"], ["best generative", "best non_generative"],
        ["guided", "real only"],
    ],
    "best_of": {
        "generative": ["variation", "guided"], "non_generative": ["real only", "pseudo-labels"],
    },
    "budget": "slides_per_class",
    "ceiling": "perfect samples",
    "goal": {"gain_points": 6.4},
    "replicates": 300,
}  # fmt: skip


def fabricate_study(root, gains, *, study=STUDY, splits=("val", "test"), seeds=8, patients=12):
    """A sweep of five arms at two budgets.

    Args:
        root: Where it is written, as the sweep ``s@v1``.
        gains: Chance to be right above that of the control, by arm.
        study: The study of its config.
        splits: Splits that are scored.
        seeds: Label draws.
        patients: Of each split, ten patches each; `target@v1` must have as many patches.
    """
    names = [arm.replace(" ", "-") for arm in ARMS]
    config = parse_config(
        SweepConfig,
        {
            "name": "s", "version": "v1", "artifacts": {"target": "patches/target@v1"},
            "steps": {name.replace("-", "_"): {"command": "classify", "config": {}}
                      for name in names},
            "search": {
                "slides_per_class": {
                    "sets": [f"{name.replace('-', '_')}.budget.count" for name in names],
                    "values": list(BUDGETS),
                },
            },
            "seeds": list(range(seeds)),
            "arms": [
                {"label": arm, "step": name.replace("-", "_")}
                for arm, name in zip(ARMS, names, strict=True)
            ],
            "control": "real only",
            "study": study,
        },
        source="fabricated",
    )  # fmt: skip
    path = finished(root, Kind.SWEEPS, "s", config=config.model_dump(mode="json"))
    rows = []
    for budget in BUDGETS:
        for seed in range(seeds):
            for arm, name in zip(ARMS, names, strict=True):
                trial = f"{name}-{budget}-{seed}"
                right = 0.6 + 0.02 * budget + gains.get(arm, 0.0)
                metrics = _classifier(root, trial, right, seed, budget, splits, patients)
                rows.append(
                    TrialRow(
                        name.replace("-", "_"), arm, "classify",
                        Reference.of(Kind.CLASSIFIERS, trial, "v1"), seed,
                        {"slides_per_class": budget}, None, metrics,
                    )
                )  # fmt: skip
    write_trials(path, rows, config)


def _classifier(root, name, right, seed, budget, splits, patients):
    """Predictions that are right with a chance that depends on draw and patient."""
    path = finished(root, Kind.CLASSIFIERS, name, config={"patches": "target@v1"})
    columns = {key: [] for key in ("patch", "slide_id", "patient_id", "split", "label")}
    probability, metrics = [], {}
    for place, split in enumerate(splits):
        common = np.random.default_rng([seed, budget, place])  # the same for all arms
        easy = np.repeat(np.random.default_rng(place).normal(0, 0.08, patients), 10)
        chance = right + 0.02 * common.normal() + easy
        target = np.repeat(np.arange(patients) % 2, 10)
        is_right = common.random(patients * 10) < chance
        sure = 0.5 + 0.5 * common.random(patients * 10)
        columns["patch"] += [place * patients * 10 + n for n in range(patients * 10)]
        names = [f"{split}{n // 10}" for n in range(patients * 10)]
        columns["slide_id"] += names
        columns["patient_id"] += names
        columns["split"] += [split] * len(names)
        columns["label"] += [CLASSES[k] for k in target]
        said = np.where(is_right, target, 1 - target)
        probability.append(
            np.where(said[:, None] == np.arange(2), sure[:, None], 1 - sure[:, None])
        )
        accuracy = float(is_right.mean())
        prefix = "" if split == "test" else "val_"
        metrics |= {f"{prefix}balanced_accuracy": accuracy, f"{prefix}auc": accuracy}
    probability = np.concatenate(probability)
    write_table(
        path / "predictions.parquet",
        {
            **columns,
            "predicted": [CLASSES[k] for k in probability.argmax(axis=1)],
            **{f"probability.{label}": probability[:, k] for k, label in enumerate(CLASSES)},
        },
    )
    record = {
        "classes": list(CLASSES), "positive": CLASSES[1],
        "patch_interval": {"balanced_accuracy": [0.6, 0.8]},
        "test_patches": patients * 10, "test_slides": patients,
        "synthetic": dict.fromkeys(CLASSES, 0), "synthetic_wanted": 0,
    }  # fmt: skip
    write_bytes(path / "metrics.json", json.dumps(record).encode())
    return metrics
