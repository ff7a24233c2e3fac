import io

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from histodiff.evaluation.reconstruction import comparison_picture, reconstruction_quality


def patches(count=3, side=16):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_quality_of_a_perfect_reconstruction():
    quality = reconstruction_quality(patches(), patches())
    assert (quality.psnr_db, quality.ssim, quality.num_patches) == (100.0, pytest.approx(1.0), 3)


def test_psnr_is_the_mean_over_patches():
    originals = patches()
    others = originals.copy()
    others[0] //= 2
    others[1:] = np.clip(others[1:].astype(int) + 9, 0, 255)
    expected = [
        peak_signal_noise_ratio(original, other, data_range=255)
        for original, other in zip(originals, others, strict=True)
    ]
    quality = reconstruction_quality(originals, others)
    assert quality.psnr_db == pytest.approx(np.mean(expected))
    assert quality.ssim < 1


def test_quality_falls_with_the_error():
    originals = patches()
    noise = np.random.default_rng(1).normal(0, 1, originals.shape)
    qualities = [
        reconstruction_quality(
            originals, np.clip(originals + strength * noise, 0, 255).astype(np.uint8)
        )
        for strength in (2, 10, 50)
    ]
    assert qualities == sorted(qualities, key=lambda quality: -quality.psnr_db)
    assert qualities == sorted(qualities, key=lambda quality: -quality.ssim)


def test_picture_shows_every_original_above_its_reconstruction():
    originals = np.zeros((5, 32, 32, 3), np.uint8)
    originals[..., 0] = 10 * np.arange(1, 6)[:, None, None]
    reconstructions = originals + np.uint8(100)
    data = comparison_picture(originals, reconstructions, columns=4)
    picture = np.asarray(Image.open(io.BytesIO(data)))
    for number in range(5):
        first = np.argwhere((picture == originals[number, 0, 0]).all(axis=2))
        second = np.argwhere((picture == reconstructions[number, 0, 0]).all(axis=2))
        assert len(first) >= 96 * 96
        assert len(second) >= 96 * 96
        assert first[:, 0].max() < second[:, 0].min()
        assert first[:, 1].min() == second[:, 1].min()
