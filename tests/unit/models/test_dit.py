"""The diffusion transformer: counts of its paper, its start, its positions, and its options."""

import pytest
import torch

from histodiff.config import parse_config
from histodiff.diffusion import EdmObjective
from histodiff.errors import ConfigError
from histodiff.kernels.attention import AttentionConfig, attention
from histodiff.kernels.autotune import AttentionShape
from histodiff.models.cost import network_cost
from histodiff.models.denoiser import (
    Denoiser,
    DenoiserConfig,
    SnapshotInfo,
    load_denoiser,
    save_snapshot,
)
from histodiff.models.dit import DiTConfig, create_dit, dit_preset
from histodiff.storage import storage_path

CPU, META = torch.device("cpu"), torch.device("meta")
SHAPE = (4, 8, 8)
SMALL = DiTConfig(type="dit", token_side=2, width=32, depth=2, num_heads=4)
OPTIONS = [
    {},
    {"positions": "rotary"},
    {"qk_norm": "rms"},
    {"modulation": "shared"},
    {"activation": "swiglu"},
    {"token_side": 1, "positions": "rotary", "qk_norm": "rms", "modulation": "shared"},
]


def small(**changes):
    return SMALL.model_copy(update=changes)


def awake(config, shape=SHAPE):
    """A transformer whose gates and output, which start at zero, have some weight."""
    torch.manual_seed(0)
    dit = create_dit(config, latent_shape=shape, device=CPU)
    for parameter in dit.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return dit


def given(count=3, shape=SHAPE):
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(1)), torch.arange(
        1.0, count + 1
    )


@pytest.mark.parametrize(
    ("name", "millions", "multiply_adds"),
    # Peebles & Xie 2023, Table 4: at 32x32x4 latents, with classes and a learned variance
    [("small", 33, 6.06), ("base", 130, 23.01), ("xlarge", 675, 118.64)],
)
def test_preset_has_parameters_and_work_of_the_paper(name, millions, multiply_adds):
    config = dit_preset(name, token_side=2)
    cost = network_cost(config, (4, 32, 32))
    width = config.width
    theirs = 1001 * width + (width + 1) * 2**2 * 4  # class table, second half of the output
    assert (cost.parameters + theirs) / 1e6 == pytest.approx(millions, abs=0.6)
    assert cost.flops.forward / 2e9 == pytest.approx(multiply_adds, rel=0.005)
    assert cost.attention == {AttentionShape(config.num_heads, 256, width // config.num_heads): 12
                              if name != "xlarge" else 28}  # fmt: skip


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_flops_equal_a_count_by_hand(changes):
    # every product of matrices, 2 FLOPs a multiply-add
    config = small(**changes)
    side, width, channels = config.token_side, config.width, SHAPE[0]
    tokens, inner = 64 // side**2, 4 * width
    feed_forward = 2 * width * inner
    if config.activation == "swiglu":
        feed_forward = 3 * width * 88  # two thirds of 128, to a multiple of 8
    block = tokens * (4 * width**2 + feed_forward) + 2 * tokens**2 * width
    noise = 256 * width + width**2 + 2 * width**2
    modulation = 6 * width**2 * (1 if config.modulation == "shared" else config.depth)
    ends = 2 * tokens * width * side**2 * channels
    expected = 2 * (ends + noise + modulation + config.depth * block)
    assert network_cost(config, SHAPE).flops.forward == expected


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_untrained_network_is_zero_and_every_block_the_identity(changes):
    torch.manual_seed(0)
    dit = create_dit(small(**changes), latent_shape=SHAPE, device=CPU)
    x, noise = given()
    output = dit(x, noise).sample
    assert output.shape == x.shape
    assert not output.any()
    seen = []
    for block in dit.blocks:
        block.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    dit(x, noise)
    assert len(seen) == 2
    assert all(torch.equal(before, after) for before, after in seen)


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_awake_network_depends_on_noise_and_on_no_other_sample(changes):
    dit = awake(small(**changes))
    x, noise = given()
    together = dit(x, noise).sample
    alone = torch.cat([dit(x[i : i + 1], noise[i : i + 1]).sample for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together, dit(x, 3 * noise).sample, atol=1e-3)


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_network_knows_where_a_token_is(positions):
    # Without positions attention is a function of a set: moved tokens would give moved outputs.
    dit = awake(small(positions=positions))
    x, noise = given()
    moved = dit(x.flip(2), noise).sample.flip(2)
    assert not torch.allclose(moved, dit(x, noise).sample, atol=1e-3)
    tables = dict(dit.named_buffers())
    for name, table in tables.items():
        table.fill_(1.0 if name == "cos_ND" else 0.0)
    tokens = awake(small(positions=positions, token_side=1)).eval()
    for name, table in tokens.named_buffers():
        table.fill_(1.0 if name == "cos_ND" else 0.0)
    moved = tokens(x.flip(2), noise).sample.flip(2)
    torch.testing.assert_close(moved, tokens(x, noise).sample, rtol=1e-4, atol=1e-4)


def test_tokens_come_back_where_they_were_cut():
    # output of the last layer is the value of a token itself: an identity through cut and paste
    config = small(width=16, num_heads=4, depth=1)
    dit = create_dit(config, latent_shape=SHAPE, device=CPU)
    x, noise = given()
    with torch.no_grad():
        dit.norm_out = torch.nn.Identity()
        dit.positions_ND.zero_()
        # value k of a token is position (row, column) and channel, in the order of the output
        dit.tokens.weight.zero_()
        for k in range(16):
            row, column, channel = k // 8, k // 4 % 2, k % 4
            dit.tokens.weight[k, channel, row, column] = 1
        dit.proj_out.weight.copy_(torch.eye(16))
    torch.testing.assert_close(dit(x, noise).sample, x)


def naive(block, tokens, given):
    """A block by the book, in float64."""
    block, tokens, given = block.double(), tokens.double(), given.double()
    shift1, scale1, gate1, shift2, scale2, gate2 = (
        part.unsqueeze(1) for part in block.modulation(given).chunk(6, dim=1)
    )
    normed = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
    states = normed * (1 + scale1) + shift1
    heads = []
    for which in ("to_q", "to_k", "to_v"):
        part = getattr(block.attention, which)(states)
        heads.append(part.unflatten(2, (block.attention.heads, -1)).transpose(1, 2))
    weights = heads[0] @ heads[1].transpose(2, 3) / heads[0].shape[-1] ** 0.5
    mixed = (weights.softmax(-1) @ heads[2]).transpose(1, 2).flatten(2)
    tokens = tokens + gate1 * block.attention.to_out[0](mixed)
    normed = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
    return tokens + gate2 * block.feed_forward(normed * (1 + scale2) + shift2)


def test_block_equals_a_naive_one():
    block = awake(SMALL).blocks[0]
    tokens, conditioning = torch.randn(2, 16, 32), torch.randn(2, 32)
    found = block(tokens, conditioning, None)
    expected = naive(block, tokens, conditioning)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_rotary_scores_depend_on_the_distance_of_two_tokens_alone():
    # Su et al. 2021, Eq. 16, for both axes: the same query and key, moved together
    dit = create_dit(small(token_side=1, positions="rotary"), latent_shape=SHAPE, device=CPU)
    cos, sin = dit.cos_ND.unflatten(0, (8, 8)), dit.sin_ND.unflatten(0, (8, 8))
    query, key = torch.randn(2, 8)

    def turned(vector, row, column):
        pairs = vector.unflatten(0, (-1, 2))
        other = torch.stack([-pairs[:, 1], pairs[:, 0]], dim=1).flatten()
        return vector * cos[row, column] + other * sin[row, column]

    def score(first, second):
        return float(turned(query, *first) @ turned(key, *second))

    assert score((1, 2), (3, 6)) == pytest.approx(score((4, 3), (6, 7)), abs=1e-5)
    assert score((1, 2), (3, 6)) != pytest.approx(score((1, 2), (6, 3)), abs=1e-3)


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_gradient_checkpointing_changes_no_gradient(changes):
    gradients = []
    for checkpointing in (False, True):
        dit = awake(small(**changes)).train()
        if checkpointing:
            dit.enable_gradient_checkpointing()
        x, noise = given()
        dit(x, noise).sample.square().sum().backward()
        gradients.append({name: p.grad for name, p in dit.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient), name


def test_snapshot_of_a_transformer_comes_back_the_same(tmp_path):
    config = DenoiserConfig(network=small(positions="rotary"), objective=EdmObjective(type="edm"))
    torch.manual_seed(0)
    denoiser = Denoiser(config, latent_shape=SHAPE).eval()
    torch.nn.init.normal_(denoiser.network.proj_out.weight)
    info = SnapshotInfo((0.0,) * 4, (1.0,) * 4, "0" * 64, patch_px=64, mpp=0.5, images_seen=1)
    save_snapshot(storage_path(tmp_path), denoiser, info)
    loaded = load_denoiser(storage_path(tmp_path), device="cpu").denoiser
    x, sigma = given()
    assert torch.equal(loaded(x, sigma), denoiser(x, sigma))
    assert loaded.config == denoiser.config


def test_named_attention_runs_in_every_block(monkeypatch):
    called = []

    def noted(q, k, v, *, backend):
        called.append(backend)
        return attention(q, k, v, backend=backend)

    monkeypatch.setattr("histodiff.kernels.attention.attention", noted)
    dit = create_dit(
        small(attention=AttentionConfig(backend="math")), latent_shape=SHAPE, device=CPU
    )
    dit(*given())
    assert called == ["math"] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "num_heads"),
        ({"width": 24, "num_heads": 4, "positions": "rotary"}, "multiple of 4 channels"),
        ({"token_side": 0}, "token_side"),
    ],
)
def test_config_that_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(DiTConfig, {**SMALL.model_dump(), **changes}, source="test")


def test_latents_that_tokens_do_not_tile_are_refused():
    with pytest.raises(ConfigError, match=r"token_side=2.*7x7"):
        create_dit(SMALL, latent_shape=(4, 7, 7), device=CPU)
