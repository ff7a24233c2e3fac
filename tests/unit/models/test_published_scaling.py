"""Published mean and scale, against what diffusers' pipelines do with the same config."""

import json

import pytest

from histodiff.models.published_scaling import published_latents
from histodiff.storage import storage_path


def saved(folder, **config):
    (folder / "config.json").write_text(json.dumps({"latent_channels": 2, **config}))
    return published_latents(storage_path(folder))


@pytest.mark.parametrize(
    ("config", "mean", "scale"),
    [
        ({"scaling_factor": 0.25}, 0.0, 4.0),
        ({"scaling_factor": 0.5, "shift_factor": 0.125}, 0.125, 2.0),
        ({"scaling_factor": 0.5, "latents_mean": [1, 1], "latents_std": [3, 3]}, 1.0, 6.0),
        ({"scaling_factor": 1.0, "_class_name": "AutoencoderTiny"}, 0.0, 1.0),
    ],
)
def test_published_scaling_is_the_one_that_pipelines_apply(tmp_path, config, mean, scale):
    found = saved(tmp_path, **config)
    assert found.mean == (mean, mean)
    assert found.scale == (scale, scale)


@pytest.mark.parametrize(
    "config", [{}, {"scaling_factor": 1.0}, {"scaling_factor": 1.0, "shift_factor": 0.0}]
)
def test_autoencoder_that_nobody_measured_has_none(tmp_path, config):
    assert saved(tmp_path, _class_name="AutoencoderKL", **config) is None


def test_folder_without_a_config_has_none(tmp_path):
    assert published_latents(storage_path(tmp_path)) is None
