"""Which real patches stand for perfect samples, and what an autoencoder makes of them."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from histodiff.classification.stand_ins import (
    PosteriorView,
    StandIn,
    reconstructed,
    stand_ins,
)
from histodiff.data_prep.index.splits import Patches, SlidesPerClass, labelled_subset
from histodiff.errors import ConfigError
from histodiff.models.autoencoder import LatentMoments


def table(*, slides_per_class=4, patches=3, patients=None):
    """Slides of classes a and b: the first ones for training, the last for validation."""
    rows = [
        {"slide_id": f"{label}{slide}", "patient_id": (patients or f"{label}{{}}").format(slide),
         "label": label, "split": "val" if slide == slides_per_class - 1 else "train"}
        for label in "ab" for slide in range(slides_per_class) for _ in range(patches)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def of(rows, column, patches):
    return rows[column].take(patches).to_pylist()


def chosen(rows, labelled, *, kind=None, ratio=1.0, num_folds=2, seed=0):
    return stand_ins(rows, labelled, kind=kind, ratio=ratio, num_folds=num_folds, seed=seed)


def slides_budget(rows, count, seed=0):
    budget = SlidesPerClass(type="slides_per_class", count=count)
    return labelled_subset(rows, budget=budget, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_stand_ins_of_other_slides_are_training_patches_of_none_of_the_labelled_slides(seed):
    rows = table()
    labelled = slides_budget(rows, 1, seed)
    found = chosen(rows, labelled, seed=seed)
    (fold,) = found.folds
    assert found.kind is StandIn.OTHER_SLIDES
    assert fold.labelled_N.tolist() == labelled.tolist()
    assert not set(of(rows, "slide_id", fold.added_M)) & set(of(rows, "slide_id", labelled))
    assert set(of(rows, "split", fold.added_M)) == {"train"}
    assert len(set(fold.added_M.tolist())) == len(fold.added_M) == fold.num_wanted == 6


def test_stand_ins_of_other_slides_leave_out_patients_of_the_labelled_slides():
    rows = table(patients="shared{}")  # a1 and b1 are of one patient
    labelled = slides_budget(rows, 1, seed=3)
    (fold,) = chosen(rows, labelled, seed=3, kind=StandIn.OTHER_SLIDES).folds
    assert not set(of(rows, "patient_id", fold.added_M)) & set(of(rows, "patient_id", labelled))


def test_stand_ins_go_round_the_classes_so_that_any_beginning_is_balanced():
    rows = table()
    (fold,) = chosen(rows, slides_budget(rows, 1), ratio=0.5).folds
    assert of(rows, "label", fold.added_M) == ["a", "b", "a"]
    (more,) = chosen(rows, slides_budget(rows, 1), ratio=2.0).folds
    assert of(rows, "label", more.added_M) == ["a", "b"] * 6
    assert more.added_M[: len(fold.added_M)].tolist() == fold.added_M.tolist()


def test_stand_ins_are_drawn_by_seed():
    rows = table(slides_per_class=6)
    labelled = slides_budget(rows, 1)
    draws = [chosen(rows, labelled, seed=seed).folds[0].added_M.tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_stand_ins_fewer_than_wanted_are_all_taken():
    rows = table()
    (fold,) = chosen(rows, slides_budget(rows, 1), ratio=5.0).folds
    assert (len(fold.added_M), fold.num_wanted) == (12, 30)


def test_stand_ins_beyond_a_budget_that_touches_every_slide_are_other_patches():
    rows = table()
    labelled = labelled_subset(rows, budget=Patches(type="patches", count=14), seed=0)
    assert len(set(of(rows, "slide_id", labelled))) == 6
    found = chosen(rows, labelled)
    assert found.kind is StandIn.OTHER_PATCHES
    assert sorted([*found.folds[0].added_M, *labelled]) == [
        n for n, split in enumerate(rows["split"].to_pylist()) if split == "train"
    ]


def test_stand_ins_without_a_label_beyond_the_budget_are_cross_fitted():
    rows = table()
    labelled = slides_budget(rows, 3)
    found = chosen(rows, labelled)
    assert found.kind is StandIn.CROSS_FITTED
    assert len(found.folds) == 2
    for fold in found.folds:
        assert sorted([*fold.labelled_N, *fold.added_M]) == labelled.tolist()
        learned, added = (set(of(rows, "slide_id", n)) for n in (fold.labelled_N, fold.added_M))
        assert not learned & added
        for patches in (fold.labelled_N, fold.added_M):
            assert set(of(rows, "label", patches)) == {"a", "b"}
    stands_for_samples = [patch for fold in found.folds for patch in fold.added_M.tolist()]
    assert len(stands_for_samples) == len(set(stands_for_samples))


def test_cross_fitting_keeps_patients_of_several_slides_together():
    rows = table(slides_per_class=5, patients="shared{}")
    found = chosen(rows, slides_budget(rows, 4), kind=StandIn.CROSS_FITTED, ratio=9.0)
    for fold in found.folds:
        learned, added = (set(of(rows, "patient_id", n)) for n in (fold.labelled_N, fold.added_M))
        assert learned | added == {"shared0", "shared1", "shared2", "shared3"}
        assert not learned & added


def test_cross_fitting_one_slide_per_class_is_refused():
    rows = table(slides_per_class=2)
    with pytest.raises(ConfigError, match="label 2 slides of each class or more"):
        chosen(rows, slides_budget(rows, 1))


def test_stand_ins_of_a_named_kind_that_there_is_none_of_are_refused():
    rows = table()
    with pytest.raises(ConfigError, match="stand_in: other_slides: not every class"):
        chosen(rows, slides_budget(rows, 3), kind=StandIn.OTHER_SLIDES)


class Halving:
    """An autoencoder whose latent is the image in fractions, with a posterior of known width."""

    def encode(self, pixels_BCHW):
        mean = pixels_BCHW.float() / 255
        return LatentMoments(mean, torch.full_like(mean, 0.1))

    def decode(self, latents_BCHW):
        return (latents_BCHW * 127.5).round().clamp(0, 255).to(torch.uint8)


def through(pixels, patches, *, view, batch=2, seed=0):
    return reconstructed(
        pixels, Halving(), patches_N=np.array(patches), view=view, batch=batch, seed=seed,
        device="cpu",
    )  # fmt: skip


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(60, 200, (5, 8, 8, 3), dtype=np.uint8)


def test_reconstructed_by_the_mean_is_decoded_as_it_was_encoded(pixels):
    found = through(pixels, range(5), view=PosteriorView.MEAN)
    assert found.shape == pixels.shape
    np.testing.assert_allclose(found, pixels / 2, atol=0.51)


def test_reconstructed_by_a_draw_has_the_spread_of_the_posterior(pixels):
    flat = np.full((40, 8, 8, 3), 128, np.uint8)
    found = through(flat, range(40), view=PosteriorView.DRAW)
    assert found.std() == pytest.approx(0.1 * 127.5, rel=0.05)


def test_reconstructed_draws_are_functions_of_seed_and_patch_alone(pixels):
    whole = through(pixels, range(5), view=PosteriorView.DRAW)
    parts = through(pixels[3:], [3, 4], view=PosteriorView.DRAW, batch=1)
    np.testing.assert_array_equal(whole[3:], parts)
    assert (through(pixels, range(5), view=PosteriorView.DRAW, seed=1) != whole).any()


def test_reconstructed_of_nothing_is_nothing(pixels):
    assert through(pixels[:0], [], view=PosteriorView.MEAN).shape == (0, 8, 8, 3)
