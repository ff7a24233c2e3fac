import numpy as np
import pytest
import torch

from histodiff.latents import Whitening
from histodiff.models.autoencoder import Autoencoder, turned
from histodiff.pretraining.posterior import posterior_draws
from tests.support.latent_stores import SWAPPED
from tests.support.patch_autoencoders import patch_autoencoder, textures

WHITENING = Whitening(mean=(1.0, -2.0), scale=(0.5, 4.0))


def moments(count: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.abs(generator.normal(size=(count, 4, 8, 8))).astype(np.float16)


def draw(values: np.ndarray, indices, *, seed=3, purpose="train", view="sample", symmetries="none",
         channels=None):  # fmt: skip
    return posterior_draws(
        values, indices, whitening=WHITENING, seed=seed, purpose=purpose, view=view,
        symmetries=symmetries, channels=channels,
    )  # fmt: skip


def test_draws_do_not_depend_on_how_a_batch_is_cut():
    values = moments(6)
    whole = draw(values, range(100, 106))
    parts = [
        draw(values[start : start + 2], range(100 + start, 102 + start)) for start in (0, 2, 4)
    ]
    for name in ("clean_BCHW", "noise_BCHW", "uniform_B"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(getattr(whole, name), joined)


def test_draws_differ_by_sample_seed_and_purpose():
    values = np.repeat(moments(1), 2, axis=0)
    first = draw(values, [0, 1])
    assert not torch.equal(first.noise_BCHW[0], first.noise_BCHW[1])
    assert not torch.equal(first.noise_BCHW, draw(values, [0, 1], seed=4).noise_BCHW)
    assert not torch.equal(first.noise_BCHW, draw(values, [0, 1], purpose="validation").noise_BCHW)


def test_conditioned_samples_are_a_share_that_depends_on_seed_and_index_alone():
    values = moments(2000)
    options = {"whitening": WHITENING, "seed": 1, "purpose": "train", "view": "mean"}
    plain = posterior_draws(values, range(2000), **options)
    shown = posterior_draws(values, range(2000), self_conditioning=0.3, **options)
    tail = posterior_draws(values[1500:], range(1500, 2000), self_conditioning=0.3, **options)
    assert not plain.conditioned_B.any()
    assert shown.conditioned_B.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(tail.conditioned_B, shown.conditioned_B[1500:])
    assert torch.equal(plain.noise_BCHW, shown.noise_BCHW)  # other draws are what they were
    assert torch.equal(plain.uniform_B, shown.uniform_B)


def test_draws_clean_samples_follow_the_whitened_posterior():
    values = np.zeros((2000, 4, 4, 4), np.float16)
    values[:, :2] = 3.0
    values[:, 2:] = 2.0
    found = draw(values, range(2000))
    mean = found.clean_BCHW.mean(dim=(0, 2, 3))
    std = found.clean_BCHW.std(dim=(0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor([4.0, 1.25]), atol=0.08, rtol=0)
    torch.testing.assert_close(std, torch.tensor([4.0, 0.5]), rtol=0.02, atol=0)
    assert 0.45 < float(found.uniform_B.mean()) < 0.55
    correlation = torch.corrcoef(
        torch.stack([found.clean_BCHW.flatten(), found.noise_BCHW.flatten()])
    )
    assert abs(float(correlation[0, 1])) < 0.02


def test_view_mean_is_the_whitened_mean_with_the_same_noise():
    values = moments(5)
    drawn, mean = draw(values, range(5)), draw(values, range(5), view="mean")
    expected = WHITENING.apply(values[:, :2].astype(np.float32))
    assert np.array_equal(mean.clean_BCHW.numpy(), expected)
    assert torch.equal(mean.noise_BCHW, drawn.noise_BCHW)
    assert torch.equal(mean.uniform_B, drawn.uniform_B)
    assert not torch.equal(mean.clean_BCHW, drawn.clean_BCHW)


@pytest.mark.parametrize(("group", "size"), [("flips", 4), ("flips_and_turns", 8)])
def test_symmetries_are_drawn_uniformly_from_the_group(group, size):
    count = 4000
    values = np.repeat(moments(1), count, axis=0)
    seen = draw(values, range(count), view="mean", symmetries=group).clean_BCHW.numpy()
    _, counts = np.unique(seen.reshape(count, -1), axis=0, return_counts=True)
    assert len(counts) == size
    expected = count / size
    assert ((counts - expected) ** 2 / expected).sum() < 30  # chi squared, 7 degrees: p = 1e-4


def test_symmetries_are_applied_to_mean_and_deviation_alike_before_the_draw():
    values = moments(64)
    flipped = draw(values, range(64), symmetries="flips_and_turns", view="mean")
    plain = draw(values, range(64), view="mean")
    drawn = draw(values, range(64), symmetries="flips_and_turns")
    straight = draw(values, range(64))
    assert torch.equal(flipped.noise_BCHW, plain.noise_BCHW)
    kept = [k for k in range(64) if torch.equal(flipped.clean_BCHW[k], plain.clean_BCHW[k])]
    assert 0 < len(kept) < 64
    for k in range(64):
        same = torch.equal(drawn.clean_BCHW[k], straight.clean_BCHW[k])
        assert same == (k in kept)
    # draw - mean = std * noise: sums over the patch of (draw - mean) / noise are those of std
    ratio = (drawn.clean_BCHW - flipped.clean_BCHW) / (straight.clean_BCHW - plain.clean_BCHW)
    std = torch.from_numpy(values[:, 2:].astype(np.float32))
    turned = (ratio * std).flatten(1).sort(dim=1).values
    torch.testing.assert_close(turned, std.flatten(1).sort(dim=1).values, rtol=1e-2, atol=2e-2)


def test_symmetries_do_not_depend_on_how_a_batch_is_cut():
    values = moments(8)
    whole = draw(values, range(40, 48), symmetries="flips_and_turns").clean_BCHW
    for world_size in (2, 4):
        share = 8 // world_size
        parts = [
            draw(
                values[rank * share : (rank + 1) * share],
                range(40 + rank * share, 40 + (rank + 1) * share),
                symmetries="flips_and_turns",
            ).clean_BCHW
            for rank in range(world_size)
        ]
        assert torch.equal(whole, torch.cat(parts))


def test_channels_that_change_sign_change_that_of_the_mean_and_not_the_width_of_the_draw():
    count = 400
    values = np.zeros((count, 4, 8, 8), np.float16)
    values[:, 0], values[:, 1], values[:, 2], values[:, 3] = 3.0, 5.0, 0.25, 1.0
    found = draw(values, range(count), symmetries="flips_and_turns", channels=SWAPPED)
    raw = WHITENING.invert(found.clean_BCHW).numpy()
    views = np.round(raw.mean(axis=(2, 3))).astype(int)
    vectors = {(a, b) for a in (3, -3) for b in (5, -5)}
    vectors |= {(b, a) for a, b in vectors}
    assert {tuple(view) for view in views.tolist()} == vectors
    for channel in range(2):
        wide = np.abs(views[:, channel]) == 5  # where the second channel went
        error = raw[:, channel] - views[:, channel, None, None]
        assert error[wide].std() == pytest.approx(1.0, rel=0.05)
        assert error[~wide].std() == pytest.approx(0.25, rel=0.05)


def test_turned_latents_of_a_linear_patch_autoencoder_are_those_of_turned_pixels():
    autoencoder = Autoencoder(patch_autoencoder(encoder_blocks=0, decoder_blocks=0))
    pixels = torch.from_numpy(textures(4, side=16)).permute(0, 3, 1, 2)
    generator = np.random.default_rng(0)
    channels = autoencoder.latent_channels
    whitening = Whitening(
        tuple(generator.normal(size=channels)), tuple(generator.uniform(0.5, 2.0, size=channels))
    )
    encoded = autoencoder.encode(pixels)
    moments = torch.cat([encoded.mean, encoded.std], dim=1).half().contiguous().numpy()
    wanted = torch.stack(
        [whitening.apply(autoencoder.encode(turned(pixels, which)).mean) for which in range(8)]
    )
    seen = set()
    for epoch in range(24):
        found = posterior_draws(
            moments, range(4 * epoch, 4 * epoch + 4), whitening=whitening, seed=0, purpose="train",
            view="mean", symmetries="flips_and_turns", channels=autoencoder.symmetries,
        ).clean_BCHW  # fmt: skip
        gaps = (wanted - found).abs().amax(dim=(2, 3, 4))
        assert gaps.amin(dim=0).max() < 5e-3  # what fp16 loses
        seen |= set(gaps.argmin(dim=0).tolist())
    assert seen == set(range(8))
