"""Stains of other slides for labelled latents: statistics of channels, exchanged (AdaIN).

A latent of a labelled slide gets, channel by channel, the mean and standard deviation of an
unlabelled slide in place of its own: ``y = (x - m) / s * s' + m'`` (Huang & Belongie 2017, arXiv
1703.06868, Eq. 8, in whitened latents). By default ``m`` and ``s`` are those of the whole labelled
slide, so that what makes one patch of it darker than another stays; those of the patch itself
would take that too. Which slide a sample gets is a function of its number and the seed.

Legend: S slides, N sources, C channels, H height, W width, M = 2C moments.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.errors import ConfigError
from histodiff.latents import LatentStore, View, Whitening
from histodiff.latents.statistics import ChannelStatistics, channel_statistics
from histodiff.runtime import generator_for

LARGEST_RATIO = 4.0
"""Of the standard deviations of two slides: a channel that hardly varies is not blown up."""
_CHUNKS_AT_ONCE = 16

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ChannelMoments:
    """Mean and deviation of every channel of whitened latents, ``(S, C)`` or ``(N, C)``."""

    mean: Floats
    std: Floats


@dataclass(frozen=True)
class Stains:
    """Slides whose stains are given, and what their statistics replace."""

    slides: tuple[str, ...]
    """Ids of the slides that give."""
    given: ChannelMoments
    """Of each of those slides."""
    own_slide_N: tuple[str, ...]
    """Slide of each source; it is given no stain of its own."""
    own: ChannelMoments
    """What is replaced, of each source."""
    share: float
    """Share of the samples that are given another stain."""


def donor_of(stains: Stains, sample: int, *, source: int, seed: int) -> int | None:
    """Place among ``stains.slides`` of what a sample is given; None where it keeps its own."""
    rng = generator_for(seed, "variation", "stain", sample)
    others = [k for k, slide in enumerate(stains.slides) if slide != stains.own_slide_N[source]]
    if not others or rng.random() >= stains.share:
        return None
    return others[int(rng.integers(len(others)))]


def stained(latent_CHW: Floats, stains: Stains, *, source: int, donor: int) -> Floats:
    """The latent of a source with the channel statistics of a slide in place of its own."""
    spread = np.maximum(stains.own.std[source], np.finfo(np.float32).tiny)
    ratio = np.clip(stains.given.std[donor] / spread, 1 / LARGEST_RATIO, LARGEST_RATIO)
    centred = latent_CHW - stains.own.mean[source][:, None, None]
    moved = centred * ratio[:, None, None] + stains.given.mean[donor][:, None, None]
    return np.asarray(moved, np.float32)


def donor_rows(
    store: LatentStore,
    *,
    splits: Sequence[str],
    num_slides: int,
    rows_per_slide: int,
    min_rows: int,
    seed: int,
) -> dict[str, npt.NDArray[np.int64]]:
    """Rows of the slides that give their stain, by slide, in the order of their ids.

    Args:
        store: Where from; labels are not looked at.
        splits: Splits whose slides are taken.
        num_slides: Slides that are drawn, at most.
        rows_per_slide: Rows of a slide, at most: the first of the store, which is shuffled.
        min_rows: A slide with fewer says too little, and gives nothing.
        seed: Draws the slides.

    Raises:
        ConfigError: No slide is left.
    """
    rows = np.sort(np.concatenate([store.rows_of_split(split) for split in splits]))
    found = {
        slide: own[:rows_per_slide]
        for slide, own in sorted(_rows_by_slide(store, rows).items())
        if len(own) >= min_rows
    }
    if not found:
        raise ConfigError(
            f"variation.stains: {store.path} has no slide with {min_rows} patches in"
            f" {', '.join(splits)}; name other splits or a lower min_rows"
        )
    chosen = generator_for(seed, "variation", "stain slides").permutation(sorted(found))
    return {str(slide): found[str(slide)] for slide in sorted(chosen[:num_slides])}


def rows_of_slides(
    store: LatentStore, slides: Sequence[str], *, rows_per_slide: int
) -> dict[str, npt.NDArray[np.int64]]:
    """The first valid rows of these slides, by slide; at most so many of each."""
    by_slide = _rows_by_slide(store, store.valid_rows)
    return {slide: by_slide[slide][:rows_per_slide] for slide in sorted(set(slides))}


def slide_statistics(
    store: LatentStore,
    rows: dict[str, npt.NDArray[np.int64]],
    *,
    whitening: Whitening,
    view: View,
) -> ChannelMoments:
    """Statistics of the whitened latents of each slide, in the order of ``rows``.

    Of the view ``sample`` they are those of draws from the posteriors, of ``mean`` of their means.
    """
    parts: dict[str, list[npt.NDArray[np.float16]]] = defaultdict(list)
    slide_of = {int(row): slide for slide, own in rows.items() for row in own}
    numbers = np.sort(np.fromiter(slide_of, np.int64, len(slide_of)))
    piece_of = numbers // (store.layout.rows_per_chunk * _CHUNKS_AT_ONCE)
    for piece in np.split(numbers, np.flatnonzero(np.diff(piece_of)) + 1):
        for row, moments_MHW in zip(piece, store.read_rows(piece), strict=True):
            parts[slide_of[int(row)]].append(moments_MHW)
    found = [_statistics(np.stack(parts[slide]), view) for slide in rows]
    return _whitened(found, whitening)


def patch_statistics(mean_NCHW: Floats, std_NCHW: Floats) -> ChannelMoments:
    """Statistics of each of some whitened latents, given by mean and deviation of the posterior."""
    variance = mean_NCHW.var(axis=(2, 3)) + (std_NCHW**2).mean(axis=(2, 3))
    return ChannelMoments(mean_NCHW.mean(axis=(2, 3)), np.sqrt(variance))


def _rows_by_slide(
    store: LatentStore, rows: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.int64]]:
    """The given rows by slide, ascending."""
    ids = store.rows["slide_id"].take(rows).combine_chunks().dictionary_encode()
    codes = np.asarray(ids.indices, np.int64)
    order = np.argsort(codes, kind="stable")
    parts = np.split(rows[order], np.flatnonzero(np.diff(codes[order])) + 1)
    return dict(zip(ids.dictionary.to_pylist(), parts, strict=True))


def _statistics(moments_NMHW: npt.NDArray[np.float16], view: View) -> ChannelMoments:
    found = channel_statistics(moments_NMHW)
    assert isinstance(found, ChannelStatistics), "valid rows are finite"
    variance = np.asarray(found.variance_of_means)
    if view == "sample":
        variance = variance + np.asarray(found.posterior_variance)
    return ChannelMoments(np.asarray(found.mean_of_means), np.sqrt(variance))


def _whitened(raw: Sequence[ChannelMoments], whitening: Whitening) -> ChannelMoments:
    mean, scale = np.asarray(whitening.mean), np.asarray(whitening.scale)
    return ChannelMoments(
        ((np.stack([each.mean for each in raw]) - mean) / scale).astype(np.float32),
        (np.stack([each.std for each in raw]) / scale).astype(np.float32),
    )
