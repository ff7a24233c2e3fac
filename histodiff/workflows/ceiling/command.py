"""``ceiling``: what perfect samples through an autoencoder would buy a classifier.

For each seed, labels are drawn as ``classify`` draws them, and its classifier is trained on them
alone (``real``), with real patches that stand for perfect samples (``untouched``), and with the
same patches through each autoencoder (``reconstructed``). They join as samples would: same sampler,
same ratio, same number of steps. Written: ``ceiling.json`` and, for people, ``summary.txt``.
"""

import json
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from histodiff.artifacts import Artifact, Draft, Kind, UnitIssue, begin, open_artifact
from histodiff.classification.images import labelled_patches
from histodiff.classification.stand_ins import StandIns, stand_ins
from histodiff.cluster.site import Site
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.runtime.threads import use_threads
from histodiff.storage import write_bytes
from histodiff.workflows.ceiling.classifiers import Classifiers
from histodiff.workflows.ceiling.config import CeilingConfig
from histodiff.workflows.ceiling.outcome import ArmScores, Outcome, Setting, outcome
from histodiff.workflows.ceiling.table import text_of
from histodiff.workflows.ceiling.trials import Trial, TrialScore, treatments
from histodiff.workflows.labels import labelled_rows, require_scorable
from histodiff.workflows.registry import Estimate

RESULTS, SUMMARY = "ceiling.json", "summary.txt"
_log = logging.getLogger(__name__)


def ceiling(config: CeilingConfig, site: Site) -> Artifact:
    """Trains every classifier that is not scored yet, and says what they show.

    Raises:
        ConfigError: Labels are missing, or an autoencoder does not take patches of this size.
    """
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    index = PatchIndex.open(inputs["patches"].path)
    plans = _plans(config, index)
    _require_fitting(index, inputs)
    draft = begin(root, config, inputs=inputs, inventory={"device_class": site.device})
    if draft.finished is not None:
        _say(draft.finished.manifest.contents["conclusion"])
        return draft.finished
    with draft:
        use_threads(config.threads)
        scores = Classifiers(config, index, inputs, draft.path, site.device).scores(plans)
        found = outcome(_setting(config, index, inputs, plans), config.seeds, _arms(config, scores))
        return _finished(draft, found, scores)


def estimate(config: CeilingConfig, site: Site) -> Estimate:
    """Classifiers, and the patches and slides that one of them sees at most."""
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    index = PatchIndex.open(inputs["patches"].path)
    plans = _plans(config, index)
    _require_fitting(index, inputs)
    folds = [fold for plan in plans for fold in plan.folds]
    labelled, added = (
        [getattr(fold, name) for fold in folds] for name in ("labelled_N", "added_M")
    )
    scored = labelled_patches(index, split=config.split)
    classifiers = len(folds) * len(treatments(len(config.autoencoders)))
    return {
        "units": classifiers,
        "classifiers": classifiers,
        "steps_each": config.training.num_steps,
        "stand_in": str(plans[0].kind),
        "labelled_patches": max(map(len, labelled)),
        "labelled_slides": max(_num_slides(index, patches) for patches in labelled),
        "added_patches": max(map(len, added)),
        "added_slides": max(_num_slides(index, patches) for patches in added),
        "reconstructed_patches": sum(map(len, added)) * len(config.autoencoders),
        "scored_patches": len(scored),
        "scored_slides": _num_slides(index, scored),
    }


def _plans(config: CeilingConfig, index: PatchIndex) -> list[StandIns]:
    """Of each seed, what is learned from; all of one kind.

    Raises:
        ConfigError: Labels are missing for it.
    """
    require_scorable(index, source=str(config.patches), split=config.split)
    rows = index.patches.take(labelled_patches(index, split=config.split))
    missing = sorted(set(index.classes) - set(rows["label"].to_pylist()))
    if missing:
        raise ConfigError(
            f"patches {config.patches}: no {config.split} patch of {', '.join(missing)}, and every"
            f" class is scored; raise split.{config.split}"
        )
    kind = None if config.stand_in == "auto" else config.stand_in
    plans: list[StandIns] = []
    for seed in config.seeds:
        labels = labelled_rows(index.patches, budget=config.budget, seed=seed)
        plans.append(
            stand_ins(
                index.patches, labels.rows, kind=kind, ratio=config.synthetic_ratio,
                num_folds=config.folds, seed=seed,
            )
        )  # fmt: skip
    kinds = {plan.kind for plan in plans}
    if len(kinds) > 1:
        raise ConfigError(
            f"stand_in: auto finds {' and '.join(sorted(kinds))} for different seeds; name one"
        )
    return plans


def _require_fitting(index: PatchIndex, inputs: Mapping[str, Artifact]) -> None:
    """Checks that every autoencoder takes patches of the index's size.

    Raises:
        ConfigError: One does not.
    """
    for key, artifact in inputs.items():
        factor = artifact.manifest.contents.get("downsampling")
        if key != "patches" and factor is not None and index.patch_px % int(factor):
            raise ConfigError(
                f"{key} {artifact.reference} downsamples {factor} times, which does not divide"
                f" patches of {index.patch_px} px; tile at another patch_px"
            )


def _arms(config: CeilingConfig, scores: Mapping[Trial, TrialScore]) -> list[ArmScores]:
    return [
        ArmScores(
            treatment.arm,
            None
            if treatment.autoencoder is None
            else str(config.autoencoders[treatment.autoencoder].as_kind(Kind.AUTOENCODERS)),
            [
                [
                    score
                    for trial, score in scores.items()
                    if trial.seed == seed and trial.treatment == treatment
                ]
                for seed in config.seeds
            ],
        )
        for treatment in treatments(len(config.autoencoders))
    ]


def _setting(
    config: CeilingConfig,
    index: PatchIndex,
    inputs: Mapping[str, Artifact],
    plans: Sequence[StandIns],
) -> Setting:
    scored = labelled_patches(index, split=config.split)
    patches = inputs["patches"].reference
    return Setting(
        patches=str(patches),
        metric=config.metric,
        level=config.level,
        stand_in=plans[0].kind,
        folds=len(plans[0].folds),
        split=config.split,
        scored_patches=len(scored),
        scored_slides=_num_slides(index, scored),
        seen=tuple(
            str(artifact.reference)
            for artifact in inputs.values()
            if str(patches) in artifact.manifest.inputs
        ),
    )


def _finished(draft: Draft, found: Outcome, scores: Mapping[Trial, TrialScore]) -> Artifact:
    """Writes the results, says the conclusion, and finishes the artifact."""
    record = {
        **found.json_ready(),
        "trials": {trial.key: score.metrics for trial, score in scores.items()},
    }
    write_bytes(draft.path / RESULTS, (json.dumps(record, indent=2) + "\n").encode())
    write_bytes(draft.path / SUMMARY, text_of(found).encode())
    _say(found.lines)
    failed: dict[str, UnitIssue] = {
        issue.unit: issue for score in scores.values() for issue in score.failed
    }
    return draft.finish(
        {
            "classifiers": len(scores),
            "seeds": len(found.seeds),
            "stand_in": str(found.setting.stand_in),
            "scored_patches": found.setting.scored_patches,
            "scored_slides": found.setting.scored_slides,
            found.setting.metric: {
                arm.arm: arm.metrics[found.setting.metric].mean for arm in found.arms
            },
            "conclusion": list(found.lines),
        },
        failed=failed.values(),
    )


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        _log.info("%s", line)


def _num_slides(index: PatchIndex, patches: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    return len(set(index.patches["slide_id"].take(patches).to_pylist()))
