"""Centroid agreement against naive loops."""

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from histodiff.errors import ConfigError
from histodiff.selection.centroid import Candidates, centroid_decisions, class_centroids
from histodiff.selection.config import Reason
from histodiff.workflows.select.config import RuleConfig

CLASSES = ("benign", "cancer", "stroma")


@pytest.fixture
def real():
    rng = np.random.default_rng(0)
    return rng.normal(size=(30, 5)), [CLASSES[n % 3] for n in range(30)]


@pytest.fixture
def candidates():
    rng = np.random.default_rng(1)
    return Candidates(
        samples=list(range(100, 160)),
        labels=[CLASSES[n % 3] for n in range(60)],
        features_ND=rng.normal(size=(60, 5)),
        real_similarity_N=rng.uniform(size=60),
    )


def naive_selection(real, candidates, cap):
    """Sample numbers kept per class, nearest first, and every own distance, with plain loops."""

    def unit(vector):
        return vector / np.sqrt(sum(value * value for value in vector))

    features, labels = real
    centroids = {}
    for name in CLASSES:
        own = [unit(f) for f, label in zip(features, labels, strict=True) if label == name]
        centroids[name] = sum(own) / len(own)
    kept = {name: [] for name in CLASSES}
    distances = []
    for place, label in enumerate(candidates.labels):
        feature = unit(candidates.features_ND[place])
        distance = {
            name: sum((a - b) ** 2 for a, b in zip(feature, centre, strict=True)) / len(feature)
            for name, centre in centroids.items()
        }
        distances.append(distance[label])
        if min(distance, key=distance.get) == label:
            kept[label].append((distance[label], candidates.samples[place]))
    return {name: [s for _, s in sorted(found)[:cap]] for name, found in kept.items()}, distances


def decide(real, candidates, cap):
    centroids = class_centroids(*real, classes=CLASSES)
    return centroid_decisions(
        candidates, centroids_KD=centroids, classes=CLASSES, max_per_class=cap
    )


@pytest.mark.parametrize("cap", [1, 4, 1000])
def test_centroid_decisions_equal_naive_loops(real, candidates, cap):
    expected, distances = naive_selection(real, candidates, cap)
    decisions = decide(real, candidates, cap)
    for name in CLASSES:
        kept = [d for d in decisions if d.label == name and d.rank is not None]
        assert [d.sample for d in sorted(kept, key=lambda d: d.rank)] == expected[name]
    np.testing.assert_allclose([d.distance for d in decisions], distances)


def test_centroid_decisions_give_a_reason_for_every_sample(real, candidates):
    decisions = decide(real, candidates, 2)
    assert len(decisions) == 60
    for decision in decisions:
        agrees = decision.nearest == decision.label
        assert (decision.reason == Reason.OTHER_CENTROID) == (not agrees)
        assert (decision.rank is not None) == (decision.reason == Reason.ACCEPTED)
    assert Reason.OVER_CAP in {decision.reason for decision in decisions}


def test_centroid_decisions_do_not_depend_on_feature_length(real, candidates):
    features, labels = real
    longer = Candidates(
        candidates.samples,
        candidates.labels,
        candidates.features_ND * np.linspace(1, 9, 60)[:, None],
        candidates.real_similarity_N,
    )
    scaled = (features * np.linspace(0.1, 7, 30)[:, None], labels)
    first = [(d.sample, d.rank) for d in decide(real, candidates, 5)]
    assert [(d.sample, d.rank) for d in decide(scaled, longer, 5)] == first


def test_class_centroids_class_without_images_is_an_error(real):
    with pytest.raises(ConfigError, match="necrosis"):
        class_centroids(*real, classes=(*CLASSES, "necrosis"))


@pytest.mark.parametrize(
    "extractors",
    [{}, {"classifier": "c@v1", "extractor": {"model": "m", "pretrained": {"type": "none"}}}],
)
def test_centroid_rule_needs_exactly_one_extractor(extractors):
    with pytest.raises(ValidationError):
        TypeAdapter(RuleConfig).validate_python(
            {"type": "centroid", "max_per_class": 5, **extractors}
        )
