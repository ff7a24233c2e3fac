"""A published autoencoder of the TAESD family on real prostate patches: what it keeps of them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from histodiff.artifacts import Artifact
from histodiff.cluster.site import NoRay, Site
from histodiff.config import find_config, load_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.evaluation.reconstruction import reconstruction_quality
from histodiff.models.autoencoder import load_autoencoder
from histodiff.pretraining.autoencoder.patches import load_patches
from histodiff.workflows.autoencoder import AutoencoderConfig, autoencoder
from histodiff.workflows.tile import TileConfig, tile

pytestmark = [pytest.mark.real_data, pytest.mark.timeout(120)]

SHARED = Path(__file__).resolve().parents[3] / "shared"
DATA, TAEF2 = SHARED / "data", SHARED / "weights" / "taef2"


@pytest.fixture(scope="module", autouse=True)
def _data_is_there() -> None:
    for folder in (DATA, TAEF2):
        assert (folder / "README.md").is_file(), f"real data is missing: {folder}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    root = tmp_path_factory.mktemp("runs")
    return Site(root=str(root), ray=NoRay(type="none"), device="cpu")


@pytest.fixture(scope="module")
def held_out(site: Site) -> npt.NDArray[np.uint8]:
    """Patches of validation slides, NHWC."""
    changes = [f"data={DATA}", "name=prostate"]
    patches = tile(load_config(TileConfig, find_config("tile/real_prostate.yaml"), changes), site)
    loaded = load_patches([PatchIndex.open(patches.path)], split="val", count=64, seed=0)
    return loaded.pixels_NHWC


@pytest.fixture(scope="module")
def taef2(site: Site) -> Artifact:
    changes = [f"mode.source={TAEF2}", "name=taef2"]
    config = load_config(AutoencoderConfig, find_config("autoencoder/import.yaml"), changes)
    return autoencoder(config, site)


def test_taef2_keeps_prostate_and_gives_the_same_latents_twice(
    taef2: Artifact, held_out: npt.NDArray[np.uint8]
) -> None:
    assert held_out.shape[1:] == (128, 128, 3)
    contents = taef2.manifest.contents
    assert (contents["downsampling"], contents["latent_channels"]) == (8, 32)
    assert (contents["network"], contents["posterior"]) == ("TaesdAutoencoder", "none")
    network = load_autoencoder(taef2.path, device="cpu")
    pixels = torch.from_numpy(held_out).permute(0, 3, 1, 2)
    moments = network.encode(pixels)
    assert not moments.std.any()
    assert moments.mean.abs().max() < 10  # about -3..3, says its author
    decoded = network.decode(moments.mean).permute(0, 2, 3, 1).numpy()
    quality = reconstruction_quality(held_out, decoded)
    assert quality.psnr_db >= 23
    assert quality.ssim >= 0.7
    other = load_autoencoder(taef2.path, device="cpu")
    assert torch.equal(other.encode(pixels[:8]).mean, network.encode(pixels[:8]).mean)
