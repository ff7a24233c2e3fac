"""The rules that stand alone: `centroid`, as the paper has it, and `random`, the control."""

from collections.abc import Mapping

import numpy as np

from histodiff.artifacts import Artifact
from histodiff.classification.images import RealImages
from histodiff.classification.training import initial_classifier
from histodiff.features.extractor import image_features
from histodiff.features.neighbours import nearest_similarity
from histodiff.models.classifier import Classifier, load_classifier
from histodiff.samples import SampleStore, Selection
from histodiff.selection.centroid import Candidates, centroid_decisions, class_centroids
from histodiff.selection.config import CentroidRule, RandomRule
from histodiff.selection.random import random_decisions
from histodiff.workflows.select.config import SelectConfig
from histodiff.workflows.select.outcome import Outcome

_READ_AT_ONCE = 1024


def by_centroid(
    config: SelectConfig,
    rule: CentroidRule,
    inputs: Mapping[str, Artifact],
    store: SampleStore,
    real: RealImages,
    *,
    device: str,
) -> Outcome:
    """Samples whose nearest centroid is their own, the nearest first."""
    extractor = _extractor(config, rule, inputs, len(store.classes), device)
    real_features = image_features(
        extractor, real.images.pixels_NHWC, batch=config.batch, device=device
    )
    labels = [store.classes[target] for target in real.images.target_N]
    features = np.concatenate(
        [
            image_features(extractor, store.read_pixels(rows), batch=config.batch, device=device)
            for rows in _blocks(len(store))
        ]
    )
    candidates = Candidates(
        samples=store.rows["sample"].to_pylist(),
        labels=store.labels,
        features_ND=features,
        real_similarity_N=nearest_similarity(features, real_features),
    )
    decisions = centroid_decisions(
        candidates,
        centroids_KD=class_centroids(real_features, labels, classes=store.classes),
        classes=store.classes,
        max_per_class=rule.max_per_class,
    )
    return Outcome(decisions, failed=real.failed)


def at_random(
    config: SelectConfig, rule: RandomRule, inputs: Mapping[str, Artifact], store: SampleStore
) -> Outcome:
    """As many of each class as another selection has, or as there may be."""
    counts = store.counts()
    if "rule.match" in inputs:
        counts = Selection.open(inputs["rule.match"].path).counts()
    limit = rule.max_per_class
    wanted = {
        label: count if limit is None else min(count, limit) for label, count in counts.items()
    }
    samples = store.rows["sample"].to_pylist()
    return Outcome(random_decisions(samples, store.labels, counts=wanted, seed=config.seed))


def _extractor(
    config: SelectConfig,
    rule: CentroidRule,
    inputs: Mapping[str, Artifact],
    num_classes: int,
    device: str,
) -> Classifier:
    if rule.extractor is not None:
        return initial_classifier(
            rule.extractor, num_classes=num_classes, seed=config.seed, device=device
        )
    return load_classifier(inputs["rule.classifier"].path, device=device).classifier


def _blocks(count: int) -> list[range]:
    return [range(s, min(s + _READ_AT_ONCE, count)) for s in range(0, count, _READ_AT_ONCE)]
