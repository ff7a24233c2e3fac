"""An autoencoder is measured on targets that it was not trained on, and the report shows them."""

import numpy as np
import pytest

from histodiff.config import parse_config
from histodiff.evaluation.reconstruction import target_picture
from histodiff.workflows.autoencoder import AutoencoderConfig, autoencoder
from histodiff.workflows.report.sections import reconstruction
from tests.support.labelled_chain import make_patches
from tests.support.published_autoencoders import tiny


def import_config(source, **fields):
    values = {
        "name": "taken", "version": "v1", "num_held_out": 8, "threads": 1, "seed": 0,
        "mode": {"type": "import", "source": str(source)}, **fields,
    }  # fmt: skip
    return parse_config(AutoencoderConfig, values, source="test")


@pytest.fixture
def source(site, tmp_path):
    make_patches(site, tmp_path / "images")
    tiny().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_target_of_the_same_patches_has_the_quality_of_the_patches(site, source):
    config = import_config(source, patches=["toy@v1"], targets=["toy@v1"])
    contents = autoencoder(config, site).manifest.contents
    [(name, found)] = contents["targets"].items()
    assert name == "patches/toy@v1"
    for measure in ("psnr_db", "ssim", "perceptual_distance", "num_patches"):
        np.testing.assert_allclose(found[measure], contents[measure], rtol=1e-6)


def test_report_shows_target_reconstructions_with_their_name(site, source):
    artifact = autoencoder(import_config(source, targets=["toy@v1"]), site)
    assert (artifact.path / target_picture("patches/toy@v1")).is_file()
    section = reconstruction(artifact)
    assert [picture.caption for picture in section.pictures] == [
        "Held-out patches of the target patches/toy@v1: original above, reconstruction below."
    ]
    assert section.targets.keys() == {"patches/toy@v1"}
