"""``scaling: {type: published}``: what the latents' autoencoder says, or a clear line."""

import json

import pytest

from histodiff.artifacts import Reference, open_artifact
from histodiff.errors import ConfigError
from histodiff.latents import Whitening
from histodiff.workflows.networks import published_whitening
from histodiff.workflows.pretrain import pretrain
from tests.support.pretraining import tiny_config

PUBLISHED = {"type": "published"}


def test_published_scaling_is_that_of_the_autoencoder_of_the_latents(encoded):
    config = encoded.storage_root / "autoencoders/toy/v1/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.5}))
    store = open_artifact(encoded.storage_root, Reference("latents/toy@v1"))
    assert published_whitening({"toy": store}, encoded) == Whitening((0.0,) * 4, (2.0,) * 4)


def test_autoencoder_without_a_published_scaling_is_refused_before_anything_is_begun(encoded):
    config = tiny_config(stores=[{"latents": "toy@v1"}], scaling=PUBLISHED)
    with pytest.raises(ConfigError, match=r"autoencoders/toy@v1 has no scaling_factor.*power"):
        pretrain(config, encoded)
    assert not (encoded.storage_root / "denoisers/tiny").exists()
    (encoded.storage_root / "autoencoders/toy/v1/manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"autoencoders/toy@v1\) is not in"):
        pretrain(config, encoded)
