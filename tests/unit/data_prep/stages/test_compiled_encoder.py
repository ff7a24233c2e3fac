"""A compiled encoder gives the same moments within rounding, of the same encoder.

Compiling takes most of a minute where nothing of it is cached.
"""

import shutil

import numpy as np
import pytest
import torch

from histodiff.data_prep.stages.forward import EncodeSettings, ForwardPasses, PixelEncoder
from histodiff.errors import ArtifactDrift, ConfigError
from histodiff.latents import LatentStore
from histodiff.models.autoencoder import Autoencoder, autoencoder_preset, create_network
from histodiff.runtime import PixelBlock
from histodiff.workflows.encode import encode
from histodiff.workflows.encode.reencode import TOLERANCE
from histodiff.workflows.verify import verify
from tests.support.encode_inputs import encode_config, write_inputs
from tests.support.encoders import ConvolutionEncoder

CPU = torch.device("cpu")


def moments(autoencoder: PixelEncoder, pixels: np.ndarray, *, compiled: bool) -> np.ndarray:
    settings = EncodeSettings(4, 1, "fp32", compiled)
    passes = ForwardPasses(autoencoder, settings=settings, device=CPU)
    blocks = [PixelBlock(np.arange(len(part)), part, {}) for part in (pixels[:4], pixels[4:])]
    return np.concatenate([encoded.moments for encoded in passes.run(blocks)])


def far_apart(found: np.ndarray, expected: np.ndarray) -> float:
    wide = expected.astype(np.float64)
    return float((np.abs(found - wide) / (1 + np.abs(wide))).max())


@pytest.mark.slow
def test_compiled_tiny_encoder_has_the_moments_and_the_digest_of_the_plain_one():
    torch.manual_seed(0)
    autoencoder = Autoencoder(create_network(autoencoder_preset("tiny")))
    digest = autoencoder.encoder_sha256
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    found = moments(autoencoder, pixels, compiled=True)
    expected = moments(autoencoder, pixels, compiled=False)
    assert found.shape == expected.shape == (6, 8, 4, 4)
    assert far_apart(found, expected) <= TOLERANCE["fp32"]
    assert Autoencoder(autoencoder.network).encoder_sha256 == digest


@pytest.mark.slow
def test_compiled_store_is_another_store_that_verifies(site, tmp_path):
    write_inputs(site.storage_root, tmp_path / "images")
    plain = encode(encode_config(), site)
    with pytest.raises(ArtifactDrift, match="compiled"):
        encode(encode_config(compiled=True), site)
    compiled = encode(encode_config(version="v2", compiled=True), site)
    assert verify("latents@v2", site) == []
    stores = [LatentStore.open(artifact.path) for artifact in (compiled, plain)]
    assert stores[0].encoder_sha256 == stores[1].encoder_sha256
    found, expected = (store.read(0, store.num_rows) for store in stores)
    assert far_apart(found, expected) <= TOLERANCE["fp32"]


def test_compiled_without_a_compiler_names_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs g\+\+"):
        ForwardPasses(
            ConvolutionEncoder(), settings=EncodeSettings(4, 1, "fp32", compiled=True), device=CPU
        )
