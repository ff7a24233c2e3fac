"""``select``: which samples may join a training set.

Rule `centroid`: features of the real-only classifier, centroids of the labelled subset alone, keep
a sample whose nearest centroid is its own. Rule `all_of`: criteria of several kinds, and one score.
Rule `ablation`: the same once more without some of them. Rule `random`: the control of the same
size. Test patches are never looked at, and of validation patches no label is. Accepted and rejected
samples are recorded with their reason.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact, begin, open_artifact
from histodiff.classification.images import RealImages, read_real
from histodiff.cluster.site import Site
from histodiff.data_prep.index.disjoint import assert_disjoint
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.runtime.threads import use_threads
from histodiff.samples import Decision, SampleStore, Selection, write_selection
from histodiff.selection.config import AblationRule, CentroidRule, RandomRule
from histodiff.storage import StoragePath, write_bytes
from histodiff.workflows.labels import (
    LABELS_SHA256,
    labelled_rows,
    opened_index,
    require_same_labels,
)
from histodiff.workflows.select.ablation import by_ablation, check_ablation
from histodiff.workflows.select.combined import Surroundings, by_all, surroundings
from histodiff.workflows.select.config import AllOfRule, SelectConfig, require_enough_drawn
from histodiff.workflows.select.outcome import Outcome
from histodiff.workflows.select.single import at_random, by_centroid


@dataclass(frozen=True)
class Subset:
    """The labelled patches of an index, and the digest that names them."""

    index: PatchIndex
    patches: npt.NDArray[np.int64]
    sha256: str


def select(config: SelectConfig, site: Site) -> Artifact:
    """Decides on every sample of the store.

    Raises:
        ConfigError: Inputs were made with other labels, samples or classes, or too few samples were
            drawn.
    """
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    subset = _subset(config, inputs)
    _check(config, inputs, subset)
    around = Surroundings()
    if isinstance(config.rule, AllOfRule):
        around = surroundings(
            config, config.rule, inputs, root=root, index=subset.index, labels_sha256=subset.sha256
        )
    draft = begin(root, config, inputs=inputs, inventory={"device_class": site.device})
    if draft.finished is not None:
        return draft.finished
    with draft:
        use_threads(config.threads)
        store = SampleStore.open(inputs["samples"].path)
        outcome = _outcome(config, inputs, subset, around, store, draft.path, site.device)
        selection = write_selection(draft.path, outcome.decisions, details=outcome.details)
        summary = {**_summary(store, selection, outcome.decisions), **outcome.measured}
        write_bytes(draft.path / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
        return draft.finish({**summary, LABELS_SHA256: subset.sha256}, failed=outcome.failed)


def estimate(config: SelectConfig, site: Site) -> dict[str, float | int | str]:
    """Samples to decide on.

    Raises:
        ConfigError: Too few were drawn.
    """
    samples = open_artifact(site.storage_root, config.inputs()["samples"])
    require_enough_drawn(config, SampleStore.open(samples.path).counts())
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
    for key in ("rule.match", "rule.selection"):
        if key in inputs and str(inputs["samples"].reference) not in inputs[key].manifest.inputs:
            raise ConfigError(
                f"{key} {inputs[key].reference} selects from other samples than"
                f" {inputs['samples'].reference}; name a selection of these"
            )
    if isinstance(config.rule, AblationRule):
        require_same_labels(subset.sha256, inputs["rule.selection"], what="rule.selection")
        check_ablation(config.rule, inputs["rule.selection"])
    pixels = inputs["samples"].manifest.contents["image_px"]
    if pixels != subset.index.patch_px:
        raise ConfigError(
            f"samples {config.samples} have {pixels} px, patches {config.patches}"
            f" {subset.index.patch_px} px; tile the patches at the denoiser's size"
        )
    require_enough_drawn(config, SampleStore.open(inputs["samples"].path).counts())


def _outcome(
    config: SelectConfig,
    inputs: dict[str, Artifact],
    subset: Subset,
    around: Surroundings,
    store: SampleStore,
    path: StoragePath,
    device: str,
) -> Outcome:
    def real() -> RealImages:
        return read_real(subset.index, subset.patches, classes=store.classes)

    match config.rule:
        case CentroidRule() as rule:
            return by_centroid(config, rule, inputs, store, real(), device=device)
        case RandomRule() as rule:
            return at_random(config, rule, inputs, store)
        case AblationRule() as rule:
            return by_ablation(config, rule, inputs["rule.selection"], store)
        case AllOfRule() as rule:
            return by_all(
                config, rule, inputs, around, store, real(),
                index=subset.index, path=path, device=device,
            )  # fmt: skip


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
