"""Strips of samples beside strips of real patches: what the report opens with.

None is chosen by eye: samples are the first, real patches are drawn by seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact, Kind, Reference, open_artifact
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.runtime import generator_for
from histodiff.samples import SampleStore
from histodiff.storage import StoragePath
from histodiff.workflows.report.comparisons import setting_text
from histodiff.workflows.report.pictures import Picture, photograph, strip
from histodiff.workflows.sweep.trial_table import TrialRow

_MAX_SETTINGS = 4
_BANDS = 3
"""Strips of samples that no guide steered, and of real patches beside them."""


@dataclass(frozen=True)
class SampleRow:
    """A strip of images of one class, with what it is of."""

    what: str
    count: int
    picture: Picture


@dataclass(frozen=True)
class ClassSamples:
    """Real patches of one class, and samples of it below."""

    label: str
    rows: Sequence[SampleRow]


def class_samples(
    root: StoragePath, rows: Sequence[TrialRow], *, per_class: int, seed: int
) -> list[ClassSamples]:
    """For each class: real training patches, and the first samples at each guidance setting."""
    shown = first_of_each_setting(rows, "synthesize")
    if not shown:
        return []
    stores = [(row, SampleStore.open(open_artifact(root, row.artifact).path)) for row in shown]
    index = _labelled_index(root, rows)
    found = []
    for label in stores[0][1].classes:
        strips = []
        if index is not None and label in index.classes:
            pixels = _real_patches(index, label, per_class, seed)
            strips.append(sample_row("real", pixels, f"Real patches of class {label}."))
        for row, store in stores:
            numbers = [n for n, own in enumerate(store.labels) if own == label][:per_class]
            what = ", ".join(filter(None, ("samples", setting_text(row.axes))))
            alt = f"Generated {what} of class {label}."
            strips.append(sample_row(what, store.read_pixels(numbers), alt))
        found.append(ClassSamples(label, strips))
    return found


def unguided_samples(
    stores: Sequence[Artifact], index: PatchIndex | None, *, per_strip: int, seed: int
) -> list[ClassSamples]:
    """For each store without classes: real patches, and its first samples.

    Args:
        stores: SampleStores.
        index: Where real patches are drawn from; None shows none.
        per_strip: Images of a strip.
        seed: Decides which real patches.
    """
    found = []
    for artifact in stores:
        store = SampleStore.open(artifact.path)
        count = min(_BANDS * per_strip, len(store.labels))
        strips = []
        if index is not None:
            drawn = _drawn_patches(index, range(index.patches.num_rows), count, seed, "all")
            strips += _bands("real", drawn, per_strip, "Real patches.")
        pixels = store.read_pixels(list(range(count)))
        strips += _bands("samples", pixels, per_strip, "Generated samples.")
        found.append(ClassSamples(str(artifact.reference), strips))
    return found


def _bands(what: str, pixels: npt.NDArray[np.uint8], per_strip: int, alt: str) -> list[SampleRow]:
    starts = range(0, len(pixels), per_strip)
    return [sample_row(what, pixels[start : start + per_strip], alt) for start in starts]


def _labelled_index(root: StoragePath, rows: Sequence[TrialRow]) -> PatchIndex | None:
    """The labelled patches that the classifiers of the sweep learned from."""
    for row in rows:
        if row.command == "classify" and row.error is None:
            classifier = open_artifact(root, row.artifact)
            return PatchIndex.open(input_of(root, classifier, "patches", Kind.PATCHES).path)
    return None


def _real_patches(index: PatchIndex, label: str, count: int, seed: int) -> npt.NDArray[np.uint8]:
    """Training patches of a class, of as many slides as possible, drawn by seed."""
    wanted = [
        number
        for number, (own, split) in enumerate(
            zip(index.patches["label"].to_pylist(), index.patches["split"].to_pylist(), strict=True)
        )
        if own == label and split == "train"
    ]
    return _drawn_patches(index, wanted, count, seed, label)


def _drawn_patches(
    index: PatchIndex, among: Sequence[int], count: int, seed: int, purpose: str
) -> npt.NDArray[np.uint8]:
    rng = generator_for(seed, "report-real", purpose)
    drawn = rng.choice(among, size=min(count, len(among)), replace=False)
    block = PatchReader(index).read(sorted(int(number) for number in drawn))
    return block.pixels[[place not in block.failures for place in range(len(block.pixels))]]


def sample_row(what: str, pixels: npt.NDArray[np.uint8], alt: str) -> SampleRow:
    """A strip of images NHWC."""
    if not len(pixels):  # every patch of the row failed to be read
        pixels = np.full((1, 8, 8, 3), 255, np.uint8)
    return SampleRow(what, len(pixels), photograph(strip(pixels), alt=alt, caption=""))


def first_of_each_setting(rows: Sequence[TrialRow], command: str) -> list[TrialRow]:
    """Trials of ``command`` at the lowest seed, one per setting, few enough to show."""
    good = [row for row in rows if row.command == command and row.error is None]
    if not good:
        return []
    lowest = min(row.seed or 0 for row in good)
    return spread([row for row in good if (row.seed or 0) == lowest], _MAX_SETTINGS)


def input_of(root: StoragePath, artifact: Artifact, key: str, kind: Kind) -> Artifact:
    """The artifact that another one was made from."""
    return open_artifact(root, Reference(artifact.manifest.config[key]).as_kind(kind))


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` items, evenly over the sequence."""
    if len(items) <= count:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, count)]
