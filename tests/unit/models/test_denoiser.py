import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from histodiff.config import parse_config
from histodiff.diffusion import EdmObjective, EpsilonObjective, FlowObjective, VObjective
from histodiff.errors import ArtifactCorrupt, ArtifactNotFound, ConfigError
from histodiff.models.denoiser import (
    Denoiser,
    DenoiserConfig,
    SnapshotInfo,
    load_denoiser,
    save_snapshot,
)
from histodiff.models.unet import UNetConfig, create_unet, unet_preset
from histodiff.models.weights import num_parameters
from histodiff.storage import storage_path

SMALL = UNetConfig(
    type="unet",
    channels=(16, 32),
    attention_levels=(False, True),
    blocks_per_level=1,
    head_dim=8,
    norm_groups=8,
)
SHAPE = (4, 8, 8)
INFO = SnapshotInfo(
    whitening_mean=(0.1, 0.2, 0.3, 0.4),
    whitening_scale=(1.0, 2.0, 3.0, 4.0),
    encoder_sha256="0" * 64,
    patch_px=64,
    mpp=0.5,
    images_seen=128,
    whitening_rule="power 0.5",
)
OBJECTIVES = [
    EdmObjective(type="edm"),
    VObjective(type="v"),
    EpsilonObjective(type="epsilon"),
    FlowObjective(type="flow"),
]


def small_denoiser(objective=OBJECTIVES[0]):
    torch.manual_seed(0)
    return Denoiser(DenoiserConfig(network=SMALL, objective=objective), latent_shape=SHAPE)


def noisy(count=3):
    x = torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(1))
    return x, torch.linspace(0.05, 5.0, count)


def wake(denoiser):
    """Gives the last convolution, which starts at zero, some weight."""
    torch.manual_seed(5)
    torch.nn.init.normal_(denoiser.network.conv_out.weight, std=0.1)
    return denoiser


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda item: item.type)
def test_denoiser_starts_as_its_skip_connection(objective):
    denoiser = small_denoiser(objective)
    x, sigma = noisy()
    skip = denoiser.preconditioning.c_skip(sigma).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(denoiser(x, sigma), skip * x)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda item: item.type)
def test_denoiser_learns_to_denoise_a_constant(objective):
    # The best D for data that is one constant image is that image, at every sigma.
    denoiser = small_denoiser(objective)
    target = torch.linspace(-1, 1, 4).reshape(1, 4, 1, 1).expand(8, *SHAPE).contiguous()
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(60):
        sigma = denoiser.preconditioning.training_sigma(torch.rand(8, generator=generator))
        noise = torch.randn(target.shape, generator=generator)
        denoised = denoiser(target + sigma.reshape(-1, 1, 1, 1) * noise, sigma)
        loss = denoiser.preconditioning.loss(denoised, target, sigma).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_denoiser_depends_on_sigma_and_on_no_other_sample():
    denoiser = wake(small_denoiser()).eval()
    x, sigma = noisy()
    together = denoiser(x, sigma)
    alone = torch.cat([denoiser(x[i : i + 1], sigma[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(denoiser(x, sigma), denoiser(x, 2 * sigma), atol=1e-3)


def test_denoiser_in_bf16_returns_fp32_near_the_fp32_result():
    denoiser = wake(small_denoiser()).eval()
    x, sigma = noisy()
    exact = denoiser(x, sigma)
    rounded = denoiser.to(torch.bfloat16)(x, sigma)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


def test_snapshot_comes_back_the_same(tmp_path):
    path = storage_path(tmp_path) / "snapshot"
    denoiser = wake(small_denoiser(EpsilonObjective(type="epsilon", error="l1"))).eval()
    save_snapshot(path, denoiser, INFO)
    loaded = load_denoiser(path, device="cpu")
    x, sigma = noisy()
    assert torch.equal(loaded.denoiser(x, sigma), denoiser(x, sigma))
    assert loaded.info == INFO
    assert loaded.latent_shape == SHAPE
    assert loaded.denoiser.config == denoiser.config
    assert not any(parameter.requires_grad for parameter in loaded.denoiser.parameters())
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


def test_snapshot_of_before_scales_had_rules_still_opens(tmp_path):
    path = storage_path(tmp_path) / "snapshot"
    save_snapshot(path, small_denoiser(), INFO)
    description = json.loads((path / "model.json").read_bytes())
    del description["info"]["whitening_rule"]
    description["info"]["whitening_std"] = description["info"].pop("whitening_scale")
    (path / "model.json").write_text(json.dumps(description))
    loaded = load_denoiser(path, device="cpu")
    assert loaded.info == dataclasses.replace(INFO, whitening_rule="power 1")


def test_snapshot_of_before_there_was_a_choice_of_network_still_opens(tmp_path):
    path = storage_path(tmp_path) / "snapshot"
    denoiser = wake(small_denoiser()).eval()
    save_snapshot(path, denoiser, INFO)
    description = json.loads((path / "model.json").read_bytes())
    config = description["config"]
    config["unet"] = config.pop("network")
    assert config["unet"].pop("type") == "unet"
    (path / "model.json").write_text(json.dumps(description))
    state = load_file(path / "weights.safetensors")
    renamed = {name.replace("network.", "unet."): tensor for name, tensor in state.items()}
    save_file(renamed, path / "weights.safetensors")
    x, sigma = noisy()
    assert torch.equal(load_denoiser(path, device="cpu").denoiser(x, sigma), denoiser(x, sigma))


def test_snapshot_can_hold_averaged_weights(tmp_path):
    path = storage_path(tmp_path) / "snapshot"
    denoiser = small_denoiser()
    averaged = {name: torch.full_like(t, 0.25) for name, t in denoiser.state_dict().items()}
    save_snapshot(path, denoiser, INFO, state=averaged)
    loaded = load_denoiser(path, device="cpu").denoiser
    assert all(torch.all(parameter == 0.25) for parameter in loaded.parameters())


def test_snapshot_that_is_missing_or_damaged_is_named(tmp_path):
    path = storage_path(tmp_path) / "snapshot"
    with pytest.raises(ArtifactNotFound, match="snapshot"):
        load_denoiser(path, device="cpu")
    save_snapshot(path, small_denoiser(), INFO)
    weights = path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactCorrupt, match="weights"):
        load_denoiser(path, device="cpu")


@pytest.mark.parametrize(
    ("name", "shape", "millions", "tolerance"),
    [
        ("tiny", (4, 16, 16), 3.6, 0.05),
        ("small", (4, 32, 32), 67, 0.05),
        ("base", (4, 32, 32), 252, 0.05),
        # ADM's UNet of the same settings counts 294,963,459 parameters; the difference is the
        # norm and biases of attention.
        ("paper", (3, 64, 64), 294.963, 0.001),
    ],
)
def test_preset_has_the_stated_size(name, shape, millions, tolerance):
    with torch.device("meta"):
        unet = create_unet(unet_preset(name), latent_shape=shape, device=torch.device("meta"))
    assert num_parameters(unet) / 1e6 == pytest.approx(millions, rel=tolerance)


def test_paper_preset_has_eight_heads_at_every_level():
    from diffusers.models.attention_processor import Attention

    with torch.device("meta"):
        unet = create_unet(
            unet_preset("paper"), latent_shape=(3, 64, 64), device=torch.device("meta")
        )
    modules = [part for part in unet.modules() if isinstance(part, Attention)]
    assert {module.heads for module in modules} == {8}
    # two per level on the way down, three on the way up, one in the middle
    assert len(modules) == 4 * (2 + 3) + 1


def test_residual_resampling_runs_and_keeps_the_shape():
    config = SMALL.model_copy(update={"resampling": "residual", "head_dim": None, "num_heads": 4})
    denoiser = Denoiser(DenoiserConfig(network=config, objective=OBJECTIVES[0]), latent_shape=SHAPE)
    x, sigma = noisy()
    assert denoiser(x, sigma).shape == x.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_levels": [True]}, "attention_levels"),
        ({"num_heads": 2}, "exactly one"),
        ({"norm_groups": 7}, "multiple"),
    ],
)
def test_unet_config_that_cannot_be_built_is_refused(change, message):
    values = {**SMALL.model_dump(), **change}
    with pytest.raises(ConfigError, match=message):
        parse_config(UNetConfig, values, source="test")


def test_latents_that_cannot_be_halved_are_refused():
    with pytest.raises(ConfigError, match="levels"):
        create_unet(SMALL, latent_shape=(4, 7, 7), device=torch.device("cpu"))
