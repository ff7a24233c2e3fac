"""A ``patch`` autoencoder from its start on several ranks to a denoiser that turns latents."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from histodiff.artifacts import Artifact
from histodiff.cluster.site import Site
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.latents import LatentStore
from histodiff.models.autoencoder import Autoencoder, load_autoencoder, principal_components
from histodiff.pretraining.autoencoder.patches import load_patches
from histodiff.workflows.autoencoder import autoencoder
from histodiff.workflows.pretrain import pretrain
from tests.support.autoencoder_training import (
    PATCH_ARCHITECTURE,
    Processes,
    exit_codes,
    train_config,
)
from tests.support.labelled_chain import make_latents, make_patches
from tests.support.pretraining import tiny_config

STANDSTILL = {"optimizer": {"type": "adamw", "lr": 1e-20}}
"""Steps that move nothing that a 32-bit number can tell from its start, but zeros."""


@pytest.fixture
def patches(site: Site, tmp_path: Path) -> Site:
    make_patches(site, tmp_path / "images")
    return site


def opened(site: Site, name: str) -> Autoencoder:
    return load_autoencoder(site.storage_root / "autoencoders" / name / "v1", device="cpu")


def losses(artifact: Artifact) -> list[float]:
    return pq.read_table(Path(artifact.path / "metrics.parquet"))["loss"].to_pylist()


def test_one_rank_and_two_start_with_the_principal_components_of_the_training_patches(patches):
    for world_size in (1, 2):
        config = train_config(
            f"by-{world_size}", architecture=PATCH_ARCHITECTURE, train=STANDSTILL, steps=4
        )
        assert exit_codes(Processes(Path(patches.root), config, world_size)) == [0] * world_size
    alone, together = (opened(patches, f"by-{world_size}") for world_size in (1, 2))
    torch.testing.assert_close(
        together.network.state_dict(), alone.network.state_dict(), rtol=0, atol=1e-15
    )
    index = PatchIndex.open(patches.storage_root / "patches/toy/v1")
    pixels = load_patches([index], split="train", count=100, seed=0).pixels_NHWC
    linear = principal_components(pixels, side=4, count=8, seed=0)
    assert alone.symmetries == together.symmetries == linear.channels
    kernel = alone.network.encoder.linear.weight[:, :, 0, 0].numpy()
    np.testing.assert_allclose(kernel, linear.components_CD, rtol=0, atol=1e-6)


def test_symmetries_of_channels_go_through_the_store_into_training(patches):
    config = train_config("patch", architecture=PATCH_ARCHITECTURE, steps=4)
    made = autoencoder(config, patches)
    symmetries = opened(patches, "patch").symmetries
    encoded = make_latents(patches, autoencoder="patch@v1", name="patch")
    store = LatentStore.open(encoded.path)
    assert store.layout.attributes.symmetries == symmetries is not None
    written = symmetries.model_dump(mode="json")
    assert made.manifest.contents["symmetries"] == written
    assert encoded.manifest.contents["symmetries"] == written

    def trained(name: str) -> list[float]:
        config = tiny_config(
            name, stores=[{"latents": "patch@v1"}], symmetries="flips_and_turns", validation=None,
            train={"images": 32, "log_images": 16},
        )  # fmt: skip
        return losses(pretrain(config, patches))

    told = trained("told")
    group = Path(encoded.path) / "zarr.json"
    described = json.loads(group.read_text())
    del described["attributes"]["symmetries"]
    group.write_text(json.dumps(described))
    untold = trained("untold")
    assert untold[0] != pytest.approx(told[0], rel=1e-4)
