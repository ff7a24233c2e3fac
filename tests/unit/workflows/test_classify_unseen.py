"""Nothing that a classifier goes back to has seen its test slides."""

import logging
import shutil

import pytest

from histodiff.errors import ConfigError
from histodiff.workflows.classify import classify
from histodiff.workflows.guide import guide
from histodiff.workflows.select import select
from histodiff.workflows.synthesize import synthesize
from tests.support.labelled_chain import make_denoiser, make_latents, make_pool
from tests.support.labelled_configs import (
    classify_config,
    guide_config,
    select_config,
    synthesize_config,
)

FEW = {"type": "slides_per_class", "count": 2}


def learned_otherwise(method, **changes):
    return classify_config(method=method, training=None, budget=FEW, **changes)


def denoiser_of_pool(site):
    make_latents(site, autoencoder="toy@v1", name="pool", patches="pool@v1")
    make_denoiser(site, name="pool", latents="pool@v1")


def probe(**changes):
    method = {
        "type": "denoiser_features", "denoiser": "pool@v1", "autoencoder": "toy@v1",
        "layers": ["mid_block"], "sigmas": [0.2],
    }  # fmt: skip
    return learned_otherwise(method, backbone=None, **changes)


def test_denoiser_that_saw_test_slides_is_refused_as_probe(encoded, tmp_path):
    make_pool(encoded, tmp_path / "pool", prefix="")
    denoiser_of_pool(encoded)
    told = (
        r"method\.denoiser: denoisers/pool@v1 has learned from patches/pool@v1, where 4 slide_ids"
    )
    with pytest.raises(ConfigError, match=told):
        classify(probe(), encoded)


def test_samples_of_a_denoiser_that_saw_test_slides_are_refused(encoded, tmp_path):
    make_pool(encoded, tmp_path / "pool", prefix="")
    denoiser_of_pool(encoded)
    guide(guide_config(denoiser="pool@v1"), encoded)
    synthesize(synthesize_config(denoiser="pool@v1", per_class=2), encoded)
    select(select_config(rule={"type": "random", "max_per_class": 1}), encoded)
    config = classify_config(samples="toy@v1", selection="toy@v1", synthetic_ratio=0.25)
    with pytest.raises(
        ConfigError, match=r"(samples|selection): s\w+/toy@v1 has learned from patches/p"
    ):
        classify(config, encoded)


def test_denoiser_of_other_slides_is_taken(encoded, tmp_path, caplog):
    make_pool(encoded, tmp_path / "pool")
    denoiser_of_pool(encoded)
    with caplog.at_level(logging.WARNING):
        classify(probe(), encoded)
    assert "not checked" not in caplog.text


def test_what_cannot_be_checked_any_more_is_said(encoded, tmp_path, caplog):
    made = make_pool(encoded, tmp_path / "pool", prefix="")
    denoiser_of_pool(encoded)
    shutil.rmtree(str(made.path))
    with caplog.at_level(logging.WARNING):
        classify(probe(), encoded)
    assert "goes back to patches/pool@v1" in caplog.text
    assert "not checked" in caplog.text
