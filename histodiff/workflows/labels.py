"""The labelled subset: which labels guide, select and classify may use.

Budget and seed decide it, over the patches of one PatchIndex in their order. A LatentStore holds
the same patches shuffled; its rows are put back in order first, so that all three commands use the
same labels. Each records ``labels_sha256`` of what it used, and refuses inputs made with others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact, content_sha256
from histodiff.classification.images import labelled_patches
from histodiff.data_prep.index.dev_splits import DevSplit, redrawn_splits, require_undivided
from histodiff.data_prep.index.disjoint import assert_disjoint
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.splits import LabelBudget, labelled_subset
from histodiff.errors import ConfigError
from histodiff.latents import LatentStore

LABELS_SHA256 = "labels_sha256"
"""Key of the digest in the contents of manifests."""


@dataclass(frozen=True)
class LabelledRows:
    """Rows of a table whose labels may be used, by patch number, and their digest."""

    rows: npt.NDArray[np.int64]
    sha256: str
    counts: Mapping[str, int]


def opened_index(artifact: Artifact, *, dev_split: DevSplit | None, seed: int) -> PatchIndex:
    """The PatchIndex of an artifact, its slides outside the test divided anew if that is asked for.

    Raises:
        ConfigError: The division could part slides that show the same tissue.
    """
    index = PatchIndex.open(artifact.path)
    if dev_split is None:
        return index
    require_undivided(index.slides, dev_split)
    place = index.patches.schema.get_field_index("split")
    split = redrawn_splits(index.patches, dev_split, seed=seed)
    return replace(index, patches=index.patches.set_column(place, "split", split))


def opened_store(artifact: Artifact, *, dev_split: DevSplit | None, seed: int) -> LatentStore:
    """The LatentStore of an artifact, divided as ``opened_index`` divides its patches."""
    store = LatentStore.open(artifact.path)
    if dev_split is None:
        return store
    return store.with_splits(redrawn_splits(store.rows, dev_split, seed=seed))


def labelled_rows(
    table: Any, *, budget: LabelBudget, seed: int, patches: npt.NDArray[np.int64] | None = None
) -> LabelledRows:
    """The labelled subset of a table with slide_id, patient_id, label and split.

    Args:
        table: Patches of a PatchIndex, or rows of a LatentStore.
        budget: How many labels.
        seed: Which ones.
        patches: Patch number of every row; by default the row's own number.
    """
    numbers = np.arange(table.num_rows, dtype=np.int64) if patches is None else patches
    by_patch = np.argsort(numbers, kind="stable")
    chosen = by_patch[labelled_subset(table.take(by_patch), budget=budget, seed=seed)]
    used = table.take(chosen)
    labels = [str(label) for label in used["label"].to_pylist()]
    named = zip(numbers[chosen], used["slide_id"].to_pylist(), labels, strict=True)
    digest = content_sha256({str(number): f"{slide}\n{label}" for number, slide, label in named})
    counts = {label: labels.count(label) for label in sorted(set(labels))}
    return LabelledRows(chosen.astype(np.int64), digest, counts)


def labels_of_store(store: LatentStore, *, budget: LabelBudget, seed: int) -> LabelledRows:
    """The labelled subset of a store, checked.

    Raises:
        ConfigError: The store has fewer than two classes, its splits share slides, or a class has
            no label.
    """
    if len(store.classes) < 2:
        raise ConfigError(
            f"latents: two classes are needed, found {list(store.classes)}; encode a labelled"
            " PatchIndex"
        )
    assert_disjoint(store.rows)
    patches = np.asarray(store.rows["patch"], np.int64)
    labels = labelled_rows(store.rows, budget=budget, seed=seed, patches=patches)
    missing = sorted(set(store.classes) - set(labels.counts))
    if missing:
        raise ConfigError(f"no labelled training latent of {', '.join(missing)}; add slides")
    return labels


def require_scorable(index: PatchIndex, *, source: str, split: str) -> None:
    """Checks that a classifier of the index's classes can be scored on a split of it.

    Args:
        index: Patches of the target.
        source: What they are called, for errors.
        split: Split that classifiers are scored on.

    Raises:
        ConfigError: There are fewer than two classes, no labelled patch in the split, or splits
            that share slides or patients.
    """
    if len(index.classes) < 2:
        raise ConfigError(f"patches {source}: two classes are needed, found {list(index.classes)}")
    if not len(labelled_patches(index, split=split)):
        raise ConfigError(
            f"patches {source}: no labelled {split} patch; set split.{split}, or name"
            " other splits to score"
        )
    assert_disjoint(index.patches)


def require_same_labels(labels_sha256: str, source: Artifact, *, what: str) -> None:
    """Checks that an input was made with the same labels.

    Raises:
        ConfigError: It was made with others, which would let it see labels beyond the budget.
    """
    used = source.manifest.contents.get(LABELS_SHA256)
    if used is None:
        raise ConfigError(
            f"{what} {source.reference} was made without labels, so nothing says what it shows;"
            " name samples that were drawn with a guide"
        )
    if used != labels_sha256:
        raise ConfigError(
            f"{what} {source.reference} was made with other labels; give both the same patches,"
            " budget and seed"
        )


def one_set_of_labels(known: Mapping[str, str | None]) -> str | None:
    """The labels that several things saw, which are one set; None where none saw any.

    Args:
        known: Digest of the labels by what saw them, None for what saw none.

    Raises:
        ConfigError: They saw different labels: together they would know more than the budget.
    """
    seen = {what: digest for what, digest in known.items() if digest is not None}
    if len(set(seen.values())) > 1:
        raise ConfigError(
            f"{' and '.join(seen)} saw different labels, so what comes of them knows more than the"
            " budget; give all the same patches, budget and seed (in a sweep, make each of them a"
            " step, so that it is trained for every seed)"
        )
    return next(iter(seen.values()), None)


def labels_of(artifact: Artifact) -> str | None:
    """Digest of the labels that an artifact knows; None where it knows none."""
    found = artifact.manifest.contents.get(LABELS_SHA256)
    return None if found is None else str(found)
