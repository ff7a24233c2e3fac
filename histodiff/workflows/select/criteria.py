"""The criteria of ``all_of``, each as a filter or a quota over all samples of a store.

A criterion is a config, a function here that makes a ``Judgement`` or a ``Quota`` of it, and a case
where they are told apart. Legend: G symmetries, N samples, K classes, D features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from histodiff.artifacts import Artifact
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.features.clusters import clusters
from histodiff.selection.centroid import centroid_distances, class_centroids
from histodiff.selection.config import (
    AgreementRule,
    ClusterQuota,
    CopiesRule,
    RealismRule,
    Reason,
    SourceQuota,
)
from histodiff.selection.judgement import Judgement, Quota
from histodiff.selection.realism import realism_scores
from histodiff.storage import StoragePath
from histodiff.workflows.select.confidence import confidence
from histodiff.workflows.select.config import (
    ConfidenceRule,
    CriterionConfig,
    LinearModel,
    extractor_of,
    name_of,
)
from histodiff.workflows.select.copies import copies
from histodiff.workflows.select.lineage import Seen
from histodiff.workflows.select.pictures import Pictures


@dataclass(frozen=True)
class Bench:
    """What criteria work with."""

    pictures: Pictures
    index: PatchIndex
    """The labelled target."""
    seen: Seen | None
    """Lineage of the samples; None where no criterion asks for it."""
    checkpoints: StoragePath
    """Folder for models that are trained on the way."""
    inputs: Mapping[str, Artifact]
    """Of the command, by the config key that names them."""
    seed: int


@dataclass
class Verdicts:
    """What all criteria say, and what is to be known of how they came to it."""

    judgements: list[Judgement] = field(default_factory=list)
    quotas: list[Quota] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    """By the criterion's name."""


def verdicts(rules: tuple[CriterionConfig, ...], bench: Bench) -> Verdicts:
    """What every criterion says of every sample of the store.

    Raises:
        ConfigError: A criterion does not suit the samples or their labels.
    """
    found = Verdicts()
    for number, rule in enumerate(rules):
        extractor = _opened(rule, bench, place=f"rule.rules.{number}.")
        match rule:
            case AgreementRule():
                found.judgements.append(_agreement(rule, bench, extractor))
            case ConfidenceRule():
                sure = confidence(
                    rule, bench.pictures, bench.index,
                    extractor=extractor if isinstance(rule.model, LinearModel) else None,
                    checkpoints=bench.checkpoints / name_of(rule), seed=bench.seed,
                )  # fmt: skip
                found.judgements.append(sure.judgement)
                found.measured[name_of(rule)] = sure.measured
            case RealismRule():
                found.judgements.append(_realism(rule, bench, extractor))
            case CopiesRule():
                assert bench.seen is not None
                compared = copies(
                    rule, bench.pictures, bench.seen, extractor,
                    target=str(bench.inputs["patches"].reference), index=bench.index,
                    seed=bench.seed,
                )  # fmt: skip
                found.judgements.append(compared.judgement)
                found.measured[name_of(rule)] = compared.measured
            case ClusterQuota():
                found.quotas.append(_clusters(rule, bench, extractor))
            case SourceQuota():
                found.quotas.append(_sources(rule, bench))
    return found


def _opened(rule: CriterionConfig, bench: Bench, *, place: str) -> str:
    """The name of the criterion's extractor among the pictures'; empty where it has none."""
    match extractor_of(rule):
        case (below, config):
            prefix = f"{place}{below}"
            inputs = {
                key.removeprefix(prefix): artifact
                for key, artifact in bench.inputs.items()
                if key.startswith(f"{prefix}extractor.")
            }
            return bench.pictures.open(config, inputs)
    return ""


def _agreement(rule: AgreementRule, bench: Bench, extractor: str) -> Judgement:
    pictures = bench.pictures
    classes = pictures.store.classes
    labels = [classes[target] for target in pictures.labelled.images.target_N]
    centroids_KD = class_centroids(pictures.of_labelled(extractor), labels, classes=classes)
    distance_NK = centroid_distances(pictures.of_samples(extractor)[0], centroids_KD)
    own_N = np.array([classes.index(label) for label in pictures.store.labels], np.int64)
    nearest_N = distance_NK.argmin(axis=1)
    own_distance_N = distance_NK[np.arange(len(own_N)), own_N]
    return Judgement(
        name_of(rule), Reason.OTHER_CENTROID, nearest_N == own_N, -own_distance_N,
        {f"nearest.{name_of(rule)}": [classes[place] for place in nearest_N]},
    )  # fmt: skip


def _realism(rule: RealismRule, bench: Bench, extractor: str) -> Judgement:
    real_MD = bench.pictures.of_held_out(extractor)[0]
    if len(real_MD) <= rule.neighbours:
        raise ConfigError(
            f"rule.rules {name_of(rule)}: {rule.neighbours} neighbours need more than"
            f" {len(real_MD)} held-out patches; lower neighbours, or name more in rule.held_out"
        )
    score_N = realism_scores(
        bench.pictures.of_samples(extractor)[0], real_MD,
        neighbours=rule.neighbours, narrowest=rule.narrowest,
    )  # fmt: skip
    return Judgement(name_of(rule), Reason.UNREAL, score_N >= rule.min_score, score_N)


def _clusters(rule: ClusterQuota, bench: Bench, extractor: str) -> Quota:
    features_ND = bench.pictures.of_samples(extractor)[0]
    labels = np.asarray(bench.pictures.store.labels, dtype=object)
    cluster_N = np.empty(len(labels), np.int64)
    for label in sorted(set(labels)):
        rows = np.flatnonzero(labels == label)
        cluster_N[rows] = clusters(features_ND[rows], count=rule.clusters, seed=bench.seed)
    return Quota(name_of(rule), Reason.CLUSTER_FULL, cluster_N.tolist(), rule.slack)


def _sources(rule: SourceQuota, bench: Bench) -> Quota:
    rows = bench.pictures.store.rows
    if "source_patch" not in rows.column_names:
        raise ConfigError(
            f"rule.rules {name_of(rule)}: the samples vary no patches, so they have no source"
            " slides; take the rule out, or synthesize with `variation`"
        )
    slides = bench.index.patches["slide_id"].take(rows["source_patch"]).to_pylist()
    return Quota(name_of(rule), Reason.SOURCE_FULL, slides, rule.slack)
