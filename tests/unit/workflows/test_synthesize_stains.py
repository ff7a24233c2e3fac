"""``synthesize`` with stains of unlabelled slides."""

import json

import numpy as np
import pytest

from histodiff.artifacts import Kind, Reference, open_artifact
from histodiff.errors import ArtifactError, ConfigError
from histodiff.latents import LatentStore, Whitening
from histodiff.samples import SampleStore
from histodiff.synthesis.stains import donor_rows, rows_of_slides, slide_statistics
from histodiff.workflows.synthesize import synthesize
from tests.support.labelled_chain import make_autoencoder, make_latents
from tests.support.labelled_configs import BUDGET, synthesize_config


def config(name, **stains):
    given = {"latents": "toy@v1", "splits": ["val"], **stains} if stains else None
    return synthesize_config(
        name=name, guide=None, guidance=None,
        variation={"latents": "toy@v1", "budget": BUDGET, "sigmas": [0.3], "stains": given},
    )  # fmt: skip


def store_of(site):
    reference = Reference.of(Kind.LATENTS, "toy", "v1")
    return LatentStore.open(open_artifact(site.storage_root, reference).path)


def test_synthesize_gives_sources_the_stains_of_other_slides_and_says_which(sampled):
    plain = SampleStore.open(synthesize(config("plain"), sampled).path)
    given = SampleStore.open(synthesize(config("given", share=0.6), sampled).path)
    rows = store_of(sampled).rows.to_pylist()
    validation = {row["slide_id"] for row in rows if row["split"] == "val"}
    slides = given.rows["stain_slide"].to_pylist()
    assert set(slides) == {None, *validation}
    assert given.rows["source_patch"] == plain.rows["source_patch"]
    before, after = (store.read_pixels(range(10)) for store in (plain, given))
    for sample, slide in enumerate(slides):
        same = (before[sample] == after[sample]).all()
        assert same == (slide is None)
    said = json.loads(given.rows["sampler"][0].as_py())["stains"]
    assert said["share"] == 0.6
    assert "stain_slide" not in plain.rows.column_names


def test_slide_statistics_equal_those_of_all_whitened_draws(sampled):
    store = store_of(sampled)
    whitening = Whitening((0.1, -0.2, 0.3, 0.0), (2.0, 0.5, 1.0, 3.0))
    rows = rows_of_slides(store, ["slide-03", "slide-00", "slide-03"], rows_per_slide=100)
    assert list(rows) == ["slide-00", "slide-03"]
    for view in ("sample", "mean"):
        found = slide_statistics(store, rows, whitening=whitening, view=view)
        for place, own in enumerate(rows.values()):
            mean, std = np.split(store.read_rows(own).astype(np.float64), 2, axis=1)
            std = std / np.reshape(whitening.scale, (1, -1, 1, 1))
            latents = whitening.apply(mean)
            variance = latents.var(axis=(0, 2, 3))
            if view == "sample":
                variance = variance + (std**2).mean(axis=(0, 2, 3))
            np.testing.assert_allclose(found.mean[place], latents.mean(axis=(0, 2, 3)), rtol=1e-4)
            np.testing.assert_allclose(found.std[place], np.sqrt(variance), rtol=1e-4)


def test_donor_rows_are_of_the_splits_and_as_many_as_asked_for(sampled):
    store = store_of(sampled)
    table = store.rows
    limits = {"rows_per_slide": 3, "min_rows": 1, "seed": 0}
    found = donor_rows(store, splits=["train", "val"], num_slides=5, **limits)
    assert len(found) == 5
    for slide, rows in found.items():
        assert len(rows) == 3
        own = table.take(rows)
        assert set(own["slide_id"].to_pylist()) == {slide}
        assert set(own["split"].to_pylist()) <= {"train", "val"}
    other = donor_rows(store, splits=["train", "val"], num_slides=5, **(limits | {"seed": 1}))
    assert set(found) != set(other)


def test_synthesize_stains_of_no_slide_or_another_encoder_are_refused(sampled):
    with pytest.raises(ConfigError, match=r"no slide with 50 patches in val; name other splits"):
        synthesize(config("none", min_rows=50), sampled)
    with pytest.raises(ConfigError, match="raise the latter"):
        config("none", min_rows=65)
    make_autoencoder(sampled, seed=1, name="other")
    make_latents(sampled, autoencoder="other@v1", name="other")
    with pytest.raises(ArtifactError, match="belongs to encoder"):
        synthesize(config("other", latents="other@v1"), sampled)
