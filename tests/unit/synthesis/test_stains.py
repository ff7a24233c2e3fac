"""Stains that latents are given: whose, how often, and that statistics become the other slide's."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from histodiff.synthesis.stains import (
    LARGEST_RATIO,
    ChannelMoments,
    Stains,
    donor_of,
    patch_statistics,
    stained,
)
from histodiff.synthesis.variation import Variation, clean_latents, source_of

SHAPE = (3, 4, 4)


def moments(latents):
    return ChannelMoments(latents.mean(axis=(0, 2, 3))[None], latents.std(axis=(0, 2, 3))[None])


def drawn(seed, count=5):
    rng = np.random.default_rng(seed)
    centre, spread = rng.normal(size=(2, 1, 3, 1, 1))
    return (centre + (1 + spread**2) * rng.standard_normal((count, *SHAPE))).astype(np.float32)


def stains(*, slides=("a", "b", "c"), own=("a", "b", "x"), share=1.0):
    zeros, ones = np.zeros((3, 3), np.float32), np.ones((3, 3), np.float32)
    given = ChannelMoments(np.arange(9, dtype=np.float32).reshape(3, 3)[: len(slides)], ones)
    return Stains(slides, given, own, ChannelMoments(zeros, ones), share)


def test_stained_patches_of_a_slide_have_the_statistics_of_the_other_slide():
    ours, theirs = drawn(0), drawn(1)
    own, given = moments(ours), moments(theirs)
    exchanged = Stains(("other",), given, ("ours",), own, share=1.0)
    found = moments(np.stack([stained(each, exchanged, source=0, donor=0) for each in ours]))
    np.testing.assert_allclose(found.mean, given.mean, atol=1e-5)
    np.testing.assert_allclose(found.std, given.std, rtol=1e-5)
    back = Stains(("ours",), own, ("other",), given, share=1.0)
    there = stained(ours[0], exchanged, source=0, donor=0)
    np.testing.assert_allclose(stained(there, back, source=0, donor=0), ours[0], atol=1e-4)


def test_stained_channel_that_hardly_varies_is_not_blown_up():
    flat = np.full(SHAPE, 2.0, np.float32)
    flat[0, 0, 0] += 1e-3
    own = patch_statistics(flat[None], np.zeros_like(flat[None]))
    given = ChannelMoments(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))
    moved = stained(flat, Stains(("b",), given, ("a",), own, share=1.0), source=0, donor=0)
    assert np.abs(moved).max() < LARGEST_RATIO * 1e-3


def test_patch_statistics_are_those_of_posterior_draws():
    mean, std = drawn(2, count=2), np.abs(drawn(3, count=2))
    found = patch_statistics(mean, std)
    noise = np.random.default_rng(4).standard_normal((20_000, *SHAPE))
    draws = mean[0] + std[0] * noise
    np.testing.assert_allclose(found.mean[0], draws.mean(axis=(0, 2, 3)), atol=0.03)
    np.testing.assert_allclose(found.std[0], draws.std(axis=(0, 2, 3)), rtol=0.01)


def test_donor_is_never_the_sources_own_slide_and_all_others_take_part():
    counts = Counter(donor_of(stains(), sample, source=0, seed=0) for sample in range(600))
    assert set(counts) == {1, 2}
    assert min(counts.values()) > 250
    of_another = Counter(donor_of(stains(), sample, source=2, seed=0) for sample in range(600))
    assert set(of_another) == {0, 1, 2}
    assert donor_of(stains(slides=("a",)), 0, source=0, seed=0) is None


def test_share_of_samples_keeps_its_own_stain():
    half = [donor_of(stains(share=0.5), sample, source=2, seed=1) for sample in range(1000)]
    assert half.count(None) == pytest.approx(500, abs=60)


def test_clean_latents_are_given_the_stain_that_their_source_names():
    mean = drawn(5, count=3)
    plain = Variation(mean, np.zeros_like(mean), np.array([0, 1, 1]), np.arange(3), sigmas=(1.0,))
    varied = replace(plain, stains=stains())
    numbers = range(8)
    sources = [source_of(varied, number, num_classes=2, seed=0) for number in numbers]
    before = [source_of(plain, number, num_classes=2, seed=0) for number in numbers]
    assert [one.row for one in sources] == [one.row for one in before]
    assert {one.donor for one in before} == {None}
    found = clean_latents(varied, sources, numbers, seed=0).numpy()
    for source, latent in zip(sources, found, strict=True):
        offset = varied.stains.given.mean[source.donor][:, None, None]
        np.testing.assert_allclose(latent, mean[source.row] + offset, atol=1e-6)
