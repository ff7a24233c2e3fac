"""An exported denoiser against ours: the same start and levels give the same pictures."""

import math

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DModel

from histodiff.config import parse_config
from histodiff.diffusion import DdpmSchedule, KarrasSchedule, noise_levels, sample
from histodiff.diffusion.samplers import DdimSampler
from histodiff.errors import ConfigError
from histodiff.models.autoencoder import Autoencoder, KlArchitecture, create_network
from histodiff.models.denoiser import Denoiser, DenoiserConfig, LoadedDenoiser, SnapshotInfo
from histodiff.models.diffusers_pipeline import (
    NUM_LEVELS,
    diffusers_pipeline,
    pipeline_sigmas,
)
from tests.support.patch_autoencoders import patch_autoencoder

WHITENING = {"whitening_mean": (0.4, -1.3, 2.0), "whitening_scale": (0.5, 3.0, 0.07)}
UNET = {
    "type": "unet", "channels": [16, 32], "attention_levels": [False, True], "blocks_per_level": 1,
    "head_dim": 8, "norm_groups": 4,
}  # fmt: skip
OBJECTIVES = {
    "edm": {"type": "edm"},
    "edm of other data": {"type": "edm", "sigma_data": 0.5, "sigma_min": 0.01, "sigma_max": 20.0},
    "v": {"type": "v", "sigma_max": 30.0},
    "epsilon": {"type": "epsilon"},
}


def randomised(module: torch.nn.Module, seed: int) -> None:
    """Weights that let the input through, the last convolution's too."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.named_parameters():
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
        noise = torch.randn(tensor.shape, generator=generator) / math.sqrt(fan_in)
        is_scale = tensor.ndim == 1 and name.endswith("weight")
        tensor.data.copy_(
            1 + 0.1 * noise if is_scale else noise if tensor.ndim > 1 else 0.1 * noise
        )


def autoencoder(**changes: bool) -> Autoencoder:
    architecture = KlArchitecture(
        type="kl", channels=(8, 8, 8), latent_channels=3, blocks_per_level=1, norm_groups=4
    )
    network = create_network(architecture)
    if changes:
        fields = {key: value for key, value in network.config.items() if not key.startswith("_")}
        network = AutoencoderKL.from_config(fields | changes)
        assert (network.quant_conv is None) == (not changes["use_quant_conv"])
    randomised(network, seed=1)
    return Autoencoder(network)


def loaded(of: Autoencoder, objective: dict[str, object], **unet: object) -> LoadedDenoiser:
    config = parse_config(
        DenoiserConfig, {"network": UNET | unet, "objective": objective}, source="test"
    )
    denoiser = Denoiser(config, latent_shape=(3, 8, 8)).eval().requires_grad_(requires_grad=False)
    randomised(denoiser.network, seed=2)
    info = SnapshotInfo(
        **WHITENING, encoder_sha256=of.encoder_sha256, patch_px=32, mpp=0.5, images_seen=7
    )
    return LoadedDenoiser(denoiser, info)


def raw(found: LoadedDenoiser, whitened: torch.Tensor) -> torch.Tensor:
    mean, std = (
        torch.tensor(values).reshape(1, -1, 1, 1)
        for values in (found.whitening_mean, found.whitening_scale)
    )
    return whitened * std + mean


def ours(
    found: LoadedDenoiser, of: Autoencoder, noise: torch.Tensor, sigmas: torch.Tensor
) -> torch.Tensor:
    """Pictures in [0, 1] of our DDIM, started where the pipeline starts: at z = noise."""
    data_std = found.denoiser.preconditioning.data_std
    start = math.sqrt(1 + (data_std / float(sigmas[0])) ** 2)  # x = data_std sqrt(1 + s^2) z
    latents = sample(
        found.denoiser, sigmas=sigmas, sampler=DdimSampler(type="ddim", eta=0.0),
        noise_B=noise * start, step_noise=lambda step: pytest.fail("no noise is drawn"),
    )  # fmt: skip
    decoded = of.network.decode(raw(found, latents)).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


def our_sigmas(found: LoadedDenoiser, steps: int) -> torch.Tensor:
    """The levels by our own schedules, nothing of the exported scheduler."""
    if found.denoiser.config.objective.type == "epsilon":
        schedule = DdpmSchedule(type="ddpm", steps=steps)
        return noise_levels(schedule, found.denoiser.preconditioning)
    every = noise_levels(
        KarrasSchedule(type="karras", steps=NUM_LEVELS), found.denoiser.preconditioning
    )
    ascending = every[:-1].flip(0)
    chosen = ascending[torch.arange(steps) * (NUM_LEVELS // steps)].flip(0)
    return torch.cat([chosen, chosen.new_zeros(1)])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("steps", [7, 20])
def test_exported_pipeline_reloaded_draws_the_same_pictures(objective, steps, tmp_path):
    of = autoencoder()
    found = loaded(of, OBJECTIVES[objective])
    diffusers_pipeline(found, of).save_pretrained(tmp_path)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        batch_size=3, generator=torch.Generator().manual_seed(5), num_inference_steps=steps,
        output_type="np",
    ).images  # fmt: skip
    noise = torch.randn((3, 3, 8, 8), generator=torch.Generator().manual_seed(5))
    expected = ours(found, of, noise, our_sigmas(found, steps))
    assert expected.std() > 0.05
    torch.testing.assert_close(
        torch.from_numpy(drawn).permute(0, 3, 1, 2), expected, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_exported_levels_are_those_of_our_schedule(objective):
    of = autoencoder()
    found = loaded(of, OBJECTIVES[objective])
    data_std = found.denoiser.preconditioning.data_std
    levels = pipeline_sigmas(diffusers_pipeline(found, of), 40) * data_std
    torch.testing.assert_close(levels, our_sigmas(found, 40), rtol=5e-3, atol=0)


@pytest.mark.parametrize(
    "changes",
    [{}, {"use_quant_conv": False, "use_post_quant_conv": False}, {"use_quant_conv": False}],
)
def test_exported_autoencoder_has_the_whitened_posterior_and_decodes_it(changes):
    of = autoencoder(**changes)
    found = loaded(of, {"type": "edm", "sigma_data": 0.5})
    exported = diffusers_pipeline(found, of).vqvae
    pixels = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        posterior, own = exported.encode(pixels).latent_dist, of.network.encode(pixels).latent_dist
        torch.testing.assert_close(raw(found, posterior.mean * 0.5), own.mean, rtol=1e-4, atol=1e-4)
        std = torch.tensor(found.whitening_scale).reshape(1, -1, 1, 1)
        torch.testing.assert_close(posterior.std * 0.5 * std, own.std, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            exported.decode(posterior.mean).sample, of.network.decode(own.mean).sample,
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip
    assert exported.config.scaling_factor == 1.0


@pytest.mark.parametrize(
    "heads",
    [
        {"head_dim": None, "num_heads": 4, "attention_levels": [False, True]},
        {"head_dim": None, "num_heads": 1, "attention_levels": [True, True]},
        {"head_dim": 8, "attention_levels": [True, True], "resampling": "residual"},
    ],
)
def test_exported_unet_of_any_heads_computes_the_same(heads):
    of = autoencoder()
    found = loaded(of, {"type": "epsilon"}, **heads)
    exported = diffusers_pipeline(found, of).unet
    x = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = found.denoiser.network(x, torch.tensor([400.0, 400.0])).sample
        torch.testing.assert_close(exported(x, torch.tensor(400)).sample, own, rtol=0, atol=1e-5)


def test_export_of_heads_of_several_widths_is_refused_in_one_line():
    of = autoencoder()
    found = loaded(of, {"type": "edm"}, head_dim=None, num_heads=4, attention_levels=[True, True])
    with pytest.raises(ConfigError, match=r"num_heads=4 .* they are 4, 8; train with head_dim$"):
        diffusers_pipeline(found, of)


def test_export_of_flow_is_refused_and_says_what_can():
    of = autoencoder()
    with pytest.raises(ConfigError, match=r"'flow' .* epsilon, v and edm can$"):
        diffusers_pipeline(loaded(of, {"type": "flow"}), of)


def test_export_with_another_encoder_is_refused():
    of = autoencoder()
    with pytest.raises(ConfigError, match="that it was trained with"):
        diffusers_pipeline(loaded(of, {"type": "edm"}), autoencoder(use_quant_conv=False))


def test_export_of_a_patch_autoencoder_is_refused_in_one_line():
    of = Autoencoder(patch_autoencoder(latent_channels=3))
    with pytest.raises(ConfigError, match=r"^a denoiser of PatchAutoencoder cannot be exported"):
        diffusers_pipeline(loaded(of, {"type": "edm"}), of)


def test_exported_parts_are_diffusers_own(tmp_path):
    of = autoencoder()
    pipeline = diffusers_pipeline(loaded(of, {"type": "edm"}), of)
    assert type(pipeline.unet) is UNet2DModel
    assert type(pipeline.vqvae) is AutoencoderKL
    assert type(pipeline.scheduler) is DDIMScheduler
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    pipeline.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.py"))
    assert not list(tmp_path.rglob("*.bin"))
