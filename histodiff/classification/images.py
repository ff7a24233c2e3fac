"""Images in memory as uint8, real and synthetic alike.

Few labels are a few hundred images: they are read once. A real patch that cannot be read is left
out and named. Legend of suffixes: N images, H height, W width, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import UnitIssue
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.errors import ConfigError, SkipReason
from histodiff.samples import SampleStore, Selection
from histodiff.telemetry import progress

Pixels = npt.NDArray[np.uint8]
_BLOCK = 256


@dataclass(frozen=True)
class Images:
    """Images ``(N, H, W, C)`` uint8 with class numbers ``(N,)``."""

    pixels_NHWC: Pixels
    target_N: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.target_N)


@dataclass(frozen=True)
class RealImages:
    """Real images, the patches they are, and the patches that could not be read."""

    images: Images
    patches_N: npt.NDArray[np.int64]
    failed: tuple[UnitIssue, ...]


@dataclass(frozen=True)
class ReadPatches:
    """Pixels of patches, whatever they show; those that could not be read are left out."""

    pixels_NHWC: Pixels
    patches_N: npt.NDArray[np.int64]
    failed: tuple[UnitIssue, ...]


def read_real(
    index: PatchIndex, patches: npt.NDArray[np.int64], *, classes: Sequence[str]
) -> RealImages:
    """The labelled patches with the given numbers.

    Raises:
        ConfigError: None of them could be read.
    """
    read = read_patches(index, patches)
    labels = index.patches["label"].take(read.patches_N).to_pylist()
    target_N = np.array([classes.index(label) for label in labels], np.int64)
    return RealImages(Images(read.pixels_NHWC, target_N), read.patches_N, read.failed)


def read_patches(index: PatchIndex, patches: npt.NDArray[np.int64]) -> ReadPatches:
    """The patches with the given numbers.

    Raises:
        ConfigError: None of them could be read.
    """
    reader = PatchReader(index)
    rows = index.patches.take(patches)
    slides, paths = rows["slide_id"].to_pylist(), rows["path"].to_pylist()
    pixels = np.empty((len(patches), index.patch_px, index.patch_px, 3), np.uint8)
    failed: dict[int, UnitIssue] = {}
    with progress("read patches", total=len(patches), unit="patches") as bar:
        for start in range(0, len(patches), _BLOCK):
            block = reader.read([int(patch) for patch in patches[start : start + _BLOCK]])
            pixels[start : start + len(block.pixels)] = block.pixels
            for position, detail in block.failures.items():
                place = start + position
                unit = f"{slides[place]}/{paths[place] or int(patches[place])}"
                failed[place] = UnitIssue(unit=unit, reason=SkipReason.UNREADABLE, detail=detail)
            bar.advance(len(block.pixels))
    if failed and len(failed) == len(patches):
        first = next(iter(failed.values()))
        raise ConfigError(
            f"none of {len(patches)} patches can be read, the first: {first.unit}: {first.detail};"
            " give the images back to where they were tiled from, or tile them again"
        )
    kept = np.array([place for place in range(len(patches)) if place not in failed], np.int64)
    return ReadPatches(pixels[kept], patches[kept], tuple(failed.values()))


def read_selected(
    store: SampleStore,
    selection: Selection,
    *,
    count: int,
    classes: Sequence[str],
    patch_px: int,
) -> Images:
    """The first ``count`` accepted samples in their order; fewer where fewer were accepted.

    Raises:
        ConfigError: The samples are of other classes or of another size than the patches.
    """
    if tuple(store.classes) != tuple(classes):
        raise ConfigError(
            f"samples are of classes {', '.join(store.classes)}, patches of {', '.join(classes)};"
            " synthesize with a guide for these patches"
        )
    if store.image_px != patch_px:
        raise ConfigError(
            f"samples have {store.image_px} px, patches {patch_px} px; tile at the denoiser's scale"
        )
    chosen = selection.accepted().slice(0, count)
    samples = [int(sample) for sample in chosen["sample"].to_pylist()]
    target = np.array([classes.index(label) for label in chosen["label"].to_pylist()], np.int64)
    return Images(store.read_pixels(store.rows_of(samples)), target)


def labelled_patches(index: PatchIndex, *, split: str) -> npt.NDArray[np.int64]:
    """Numbers of the labelled patches of a split."""
    own = np.asarray(index.patches["split"].to_pylist(), dtype=object) == split
    labelled = np.array([label is not None for label in index.patches["label"].to_pylist()], bool)
    return np.flatnonzero(own & labelled).astype(np.int64)


def num_added(ratio: float, num_real: int) -> int:
    """Images that join ``num_real`` real ones at a ratio of added to real."""
    return round(ratio * num_real)
