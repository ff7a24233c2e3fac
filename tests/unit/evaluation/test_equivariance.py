"""Equivariance errors of codecs whose answer is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from histodiff.evaluation.equivariance import equivariance
from histodiff.evaluation.reconstruction import reconstruction_quality
from histodiff.models.autoencoder import LatentMoments
from histodiff.runtime.symmetries import GROUPS, NAMES
from histodiff.workflows.report.equivariance import advice_on_symmetries

PATCHES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


class Pooling:
    """Averages of 4x4 pixels, drawn as flat squares: commutes with every symmetry."""

    symmetries = None

    def encode(self, pixels_BCHW):
        mean = F.avg_pool2d(pixels_BCHW.float(), 4)
        return LatentMoments(mean, torch.zeros_like(mean))

    def decode(self, latents_BCHW):
        return F.interpolate(latents_BCHW, scale_factor=4).round().clamp(0, 255).to(torch.uint8)


class Ramp(Pooling):
    """Adds a slope from left to right when it decodes: commutes with up-down flips alone."""

    def decode(self, latents_BCHW):
        slope = torch.linspace(-8, 8, 4).reshape(1, 1, 1, 4)
        return super().decode(latents_BCHW * 0 + 128 + slope)


def test_an_equivariant_codec_has_no_error():
    found = equivariance(Pooling(), PATCHES, batch=2)
    assert [row.symmetry for row in found.symmetries] == list(NAMES[1:])
    for row in found.symmetries:
        assert row.rmse_to_decoded == 0.0
        assert row.psnr_to_decoded_db == 100.0
        assert row.latent_error == pytest.approx(0.0, abs=1e-6)
        assert row.psnr_to_pixels_db == pytest.approx(found.psnr_db)
        assert row.rmse_to_pixels == pytest.approx(found.rmse)


def test_plain_psnr_is_that_of_the_reconstruction():
    codec = Pooling()
    images = torch.from_numpy(PATCHES).permute(0, 3, 1, 2)
    decoded = codec.decode(codec.encode(images).mean).permute(0, 2, 3, 1).numpy()
    found = equivariance(codec, PATCHES, batch=3)
    assert found.psnr_db == pytest.approx(reconstruction_quality(PATCHES, decoded).psnr_db)


def test_a_codec_with_a_direction_errs_under_the_symmetries_that_change_it():
    found = equivariance(Ramp(), PATCHES, batch=5)
    errors = {row.symmetry: row.rmse_to_decoded for row in found.symmetries}
    slope = np.round(128 + np.repeat(np.linspace(-8, 8, 4), 4))
    mirrored = np.sqrt(np.mean((slope - slope[::-1]) ** 2))
    assert errors["flip up-down"] == 0.0
    assert errors["flip left-right"] == pytest.approx(mirrored)
    assert errors["turn 180"] == pytest.approx(mirrored)
    across = np.sqrt(np.mean((slope[None, :] - slope[:, None]) ** 2))
    assert errors["transpose"] == pytest.approx(across)


class Shifted(Pooling):
    """Encodes what lies a pixel to the right."""

    def encode(self, pixels_BCHW):
        return super().encode(torch.roll(pixels_BCHW, 1, dims=3))


def test_a_shifted_encoder_errs_in_its_latents():
    found = equivariance(Shifted(), PATCHES, batch=5)
    errors = {row.symmetry: row.latent_error for row in found.symmetries}
    assert errors["flip up-down"] == pytest.approx(0.0, abs=1e-6)
    assert errors["flip left-right"] > 0.1
    assert errors["turn 90"] > 0.1


@pytest.mark.parametrize(
    ("lost", "advice"),
    [
        ({}, "`symmetries: flips_and_turns`"),
        ({"turn 90": 2.0}, "`symmetries: flips`"),
        ({"flip up-down": 2.0}, "`symmetries: none`"),
    ],
)
def test_the_advice_follows_the_worst_member_of_a_group(lost, advice):
    rows = [
        {"symmetry": name, "psnr_to_pixels_db": 30.0 - lost.get(name, 0.1)} for name in NAMES[1:]
    ]
    told = advice_on_symmetries({"psnr_db": 30.0, "symmetries": rows})
    assert advice in told
    assert ("2.0 dB" in told) == bool(lost)


def test_the_group_of_flips_has_the_three_flips():
    assert {NAMES[which] for which in GROUPS["flips"]} == {
        "identity", "turn 180", "flip left-right", "flip up-down",
    }  # fmt: skip
