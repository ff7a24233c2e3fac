"""``select``: which samples may join a training set.

Rule `centroid`: features of the real-only classifier, centroids of the labelled subset alone, keep
a sample whose nearest centroid is its own. Rule `random`: the control of the same size. Validation
and test patches are never looked at. Accepted and rejected samples are recorded with their reason.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from histodiff.artifacts import Artifact, CommandConfig, Kind, Reference, begin, open_artifact
from histodiff.classification.images import RealImages, read_real
from histodiff.classification.training import initial_classifier
from histodiff.cluster.site import Site
from histodiff.config import Location
from histodiff.data_prep.index.dev_splits import DevSplit
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.splits import LabelBudget, assert_disjoint
from histodiff.errors import ConfigError
from histodiff.features.extractor import image_features
from histodiff.features.neighbours import nearest_similarity
from histodiff.models.classifier import Classifier, load_classifier
from histodiff.runtime.threads import use_threads
from histodiff.samples import Decision, SampleStore, Selection, write_selection
from histodiff.selection.centroid import Candidates, centroid_decisions, class_centroids
from histodiff.selection.config import CentroidRule, RandomRule, RuleConfig
from histodiff.selection.random import random_decisions
from histodiff.storage import write_bytes
from histodiff.workflows.labels import (
    LABELS_SHA256,
    labelled_rows,
    opened_index,
    require_same_labels,
)

_READ_AT_ONCE = 1024


class SelectConfig(CommandConfig):
    """Config of ``select``."""

    artifact_kind: ClassVar[Kind] = Kind.SELECTIONS

    samples: Annotated[Reference, Location()]
    """SampleStore to select from."""
    patches: Annotated[Reference, Location()]
    """Labelled PatchIndex of the target."""
    budget: LabelBudget
    """How many labels may be used; as for the guide."""
    dev_split: DevSplit | None = None
    """Divides the slides outside the test anew into training and validation; null leaves them. The
    same in every command that takes labels."""
    rule: RuleConfig
    """Which samples are accepted."""
    batch: int = Field(default=64, ge=1)
    """Images per forward pass of the extractor."""
    threads: int = Field(ge=1)
    """Torch threads; part of the identity, as results on a CPU depend on it."""
    seed: int
    """Decides the labelled subset, and what the random rule draws."""

    def inputs(self) -> dict[str, Reference]:
        found = {
            "samples": self.samples.as_kind(Kind.SAMPLES),
            "patches": self.patches.as_kind(Kind.PATCHES),
        }
        match self.rule:
            case CentroidRule(classifier=Reference() as classifier):
                found["rule.classifier"] = classifier.as_kind(Kind.CLASSIFIERS)
            case RandomRule(match=Reference() as match_of):
                found["rule.match"] = match_of.as_kind(Kind.SELECTIONS)
        return found


@dataclass(frozen=True)
class Subset:
    """The labelled patches of an index, and the digest that names them."""

    index: PatchIndex
    patches: npt.NDArray[np.int64]
    sha256: str


def select(config: SelectConfig, site: Site) -> Artifact:
    """Decides on every sample of the store.

    Raises:
        ConfigError: Inputs were made with other labels, samples or classes.
    """
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    subset = _subset(config, inputs)
    _check(config, inputs, subset)
    draft = begin(root, config, inputs=inputs, inventory={"device_class": site.device})
    if draft.finished is not None:
        return draft.finished
    with draft:
        use_threads(config.threads)
        store = SampleStore.open(inputs["samples"].path)
        real: RealImages | None = None
        match config.rule:
            case CentroidRule() as rule:
                real = read_real(subset.index, subset.patches, classes=store.classes)
                extractor = _extractor(config, rule, inputs, len(store.classes), site.device)
                decisions = _by_centroid(config, rule, store, real, extractor, site.device)
            case RandomRule() as rule:
                decisions = random_decisions(
                    store.rows["sample"].to_pylist(), store.labels,
                    counts=_random_counts(rule, store, inputs), seed=config.seed,
                )  # fmt: skip
        selection = write_selection(draft.path, decisions)
        summary = _summary(store, selection, decisions)
        write_bytes(draft.path / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
        contents = {**summary, LABELS_SHA256: subset.sha256}
        return draft.finish(contents, failed=real.failed if real else ())


def estimate(config: SelectConfig, site: Site) -> dict[str, float | int | str]:
    """Samples to decide on."""
    samples = open_artifact(site.storage_root, config.inputs()["samples"])
    return {"samples": int(samples.manifest.contents["samples"])}


def _subset(config: SelectConfig, inputs: dict[str, Artifact]) -> Subset:
    index = opened_index(inputs["patches"], dev_split=config.dev_split, seed=config.seed)
    assert_disjoint(index.patches)
    labels = labelled_rows(index.patches, budget=config.budget, seed=config.seed)
    return Subset(index, labels.rows, labels.sha256)


def _check(config: SelectConfig, inputs: dict[str, Artifact], subset: Subset) -> None:
    require_same_labels(subset.sha256, inputs["samples"], what="samples")
    if "rule.classifier" in inputs:
        classifier = inputs["rule.classifier"]
        require_same_labels(subset.sha256, classifier, what="rule.classifier")
        if classifier.manifest.contents["synthetic"]:
            raise ConfigError(
                f"rule.classifier {classifier.reference} was trained on synthetic images too;"
                " name the one trained on real images only"
            )
    if "rule.match" in inputs:
        matched = inputs["rule.match"].manifest.inputs
        if str(inputs["samples"].reference) not in matched:
            raise ConfigError(
                f"rule.match {inputs['rule.match'].reference} selects from other samples than"
                f" {inputs['samples'].reference}; name a selection of these"
            )
    pixels = inputs["samples"].manifest.contents["image_px"]
    if pixels != subset.index.patch_px:
        raise ConfigError(
            f"samples {config.samples} have {pixels} px, patches {config.patches}"
            f" {subset.index.patch_px} px; tile the patches at the denoiser's size"
        )


def _extractor(
    config: SelectConfig,
    rule: CentroidRule,
    inputs: dict[str, Artifact],
    num_classes: int,
    device: str,
) -> Classifier:
    if rule.extractor is not None:
        return initial_classifier(
            rule.extractor, num_classes=num_classes, seed=config.seed, device=device
        )
    return load_classifier(inputs["rule.classifier"].path, device=device).classifier


def _by_centroid(
    config: SelectConfig,
    rule: CentroidRule,
    store: SampleStore,
    real: RealImages,
    extractor: Classifier,
    device: str,
) -> list[Decision]:
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
    return centroid_decisions(
        candidates,
        centroids_KD=class_centroids(real_features, labels, classes=store.classes),
        classes=store.classes,
        max_per_class=rule.max_per_class,
    )


def _blocks(count: int) -> list[range]:
    return [range(s, min(s + _READ_AT_ONCE, count)) for s in range(0, count, _READ_AT_ONCE)]


def _random_counts(
    rule: RandomRule, store: SampleStore, inputs: dict[str, Artifact]
) -> dict[str, int]:
    counts = store.counts()
    if "rule.match" in inputs:
        counts = Selection.open(inputs["rule.match"].path).counts()
    limit = rule.max_per_class
    return {label: count if limit is None else min(count, limit) for label, count in counts.items()}


def _summary(
    store: SampleStore, selection: Selection, decisions: Sequence[Decision]
) -> dict[str, object]:
    reasons: dict[str, Counter[str]] = {label: Counter() for label in store.classes}
    for decision in decisions:
        reasons[decision.label][str(decision.reason)] += 1
    return {
        "samples": len(store),
        "accepted": sum(selection.counts().values()),
        "accepted_by_class": selection.counts(),
        "reasons_by_class": {
            label: dict(sorted(found.items())) for label, found in reasons.items()
        },
    }
