"""The second backbone: a diffusion transformer (DiT) from a config of ours, and its presets.

Peebles & Xie 2023 without classes: tokens of latent positions, blocks that the noise level scales,
shifts and gates (adaLN-zero), so that an untrained network gives zero and every block the identity.
The parts are diffusers' (attention, feed-forward, embeddings), so our attention is installed as in
the UNet. Options of later work: modulation shared by the blocks (Chen et al. 2023, PixArt-alpha,
Sec. 2.3), rotary positions (Su et al. 2021), normalised queries and keys (Dehghani et al. 2023),
SwiGLU (Shazeer 2020). With the objective `flow` it is a SiT (Ma et al. 2024).

Legend: B batch, C channels, H height, W width of a latent, N tokens, D width, M modulation.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import (
    TimestepEmbedding,
    Timesteps,
    apply_rotary_emb,
    get_2d_rotary_pos_embed,
    get_2d_sincos_pos_embed,
)
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from histodiff.config import Config
from histodiff.errors import ConfigError
from histodiff.kernels.attention import AttentionConfig, install_attention
from histodiff.models.weights import module_dtype

_NOISE_CHANNELS = 256
_EPSILON = 1e-6
_MULTIPLE = 8
"""The inner width of SwiGLU is a multiple of it."""

Rotate = Callable[[Tensor], Tensor]
"""Turns queries or keys (BHND) by their positions."""


class DiTConfig(Config):
    """Size and shape of a diffusion transformer; the latents decide its tokens and channels."""

    type: Literal["dit"]
    token_side: int = Field(ge=1)
    """Side of a token in latent positions (the 2 of DiT-S/2); the work grows with its inverse
    square, and attention with the fourth power."""
    width: int = Field(ge=4)
    """Channels of a token; a multiple of 4 and of `num_heads`."""
    depth: int = Field(ge=1)
    """Number of blocks."""
    num_heads: int = Field(ge=1)
    """Attention heads of a block."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Inner width of a block's feed-forward layers over `width`."""
    activation: Literal["gelu", "swiglu"] = "gelu"
    """Of the feed-forward layers; `swiglu` is narrowed to two thirds and has as many weights."""
    modulation: Literal["per_block", "shared"] = "per_block"
    """How the noise level enters: a projection `per_block`, a third of all weights, or one that is
    `shared`, with a table for every block."""
    positions: Literal["sincos", "rotary"] = "sincos"
    """How a token knows where it is: a sum at the input, or queries and keys that are turned."""
    qk_norm: Literal["none", "rms"] = "none"
    """Normalisation of queries and keys, against attention that runs away in long trainings."""
    attention: AttentionConfig = AttentionConfig()
    """Implementation of attention."""

    @model_validator(mode="after")
    def _divisible(self) -> "DiTConfig":
        if self.width % self.num_heads or self.width % 4:
            raise ValueError(
                f"width ({self.width}) must be a multiple of 4 and of num_heads ({self.num_heads})"
            )
        if self.positions == "rotary" and self.width // self.num_heads % 4:
            raise ValueError(
                f"positions 'rotary' need heads of a multiple of 4 channels; width ({self.width})"
                f" over num_heads ({self.num_heads}) is {self.width // self.num_heads}"
            )
        return self


class DiT(nn.Module):
    """A diffusion transformer with random weights.

    Args:
        config: Its size and shape.
        latent_shape: (C, h, w) of what comes out.
        input_channels: Channels of what goes in.
    """

    positions_ND: Tensor
    cos_ND: Tensor
    sin_ND: Tensor

    def __init__(
        self, config: DiTConfig, *, latent_shape: tuple[int, int, int], input_channels: int
    ) -> None:
        super().__init__()
        side, width = config.token_side, config.width
        channels, height, width_px = latent_shape
        self.config = config
        self.grid = (height // side, width_px // side)
        self.gradient_checkpointing = False
        self.tokens = nn.Conv2d(input_channels, width, kernel_size=side, stride=side)
        self.noise_projection = Timesteps(
            _NOISE_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        self.noise_embedding = TimestepEmbedding(_NOISE_CHANNELS, width)
        self.shared_modulation = (
            nn.Linear(width, 6 * width) if config.modulation == "shared" else None
        )
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm_out = nn.LayerNorm(width, eps=_EPSILON, elementwise_affine=False)
        self.modulation_out = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(width, side**2 * channels)
        self._register_positions()
        self._initialise()

    def enable_gradient_checkpointing(self) -> None:
        """Keeps the inputs of blocks only, and computes the rest again in the backward pass."""
        self.gradient_checkpointing = True

    def forward(self, x_BCHW: Tensor, noise_B: Tensor) -> Transformer2DModelOutput:
        """What the preconditioning asks for, as ``sample``, of the shape of a latent.

        Args:
            x_BCHW: Scaled noisy latents, in the type of the parameters.
            noise_B: Noise level as a sinusoidal embedding takes it (``c_noise``).
        """
        tokens_BND = self.tokens(x_BCHW).flatten(2).transpose(1, 2)
        embedding_BD = nn.functional.silu(
            self.noise_embedding(self.noise_projection(noise_B).to(module_dtype(self)))
        )
        given_BM = embedding_BD if self.shared_modulation is None else self.shared_modulation(
            embedding_BD
        )  # fmt: skip
        rotate: Rotate | None = None
        if self.config.positions == "rotary":
            rotate = partial(apply_rotary_emb, freqs_cis=(self.cos_ND, self.sin_ND))
        else:
            tokens_BND = tokens_BND + self.positions_ND.to(tokens_BND.dtype)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens_BND = checkpoint(block, tokens_BND, given_BM, rotate, use_reentrant=False)
            else:
                tokens_BND = block(tokens_BND, given_BM, rotate)
        shift_B1D, scale_B1D = self.modulation_out(embedding_BD).unsqueeze(1).chunk(2, dim=2)
        normed_BND = self.norm_out(tokens_BND) * (1 + scale_B1D) + shift_B1D
        return Transformer2DModelOutput(sample=self._latent(self.proj_out(normed_BND)))

    def _latent(self, tokens_BND: Tensor) -> Tensor:
        """Tokens of ``side * side * C`` values -> BCHW."""
        (height, width), side = self.grid, self.config.token_side
        parts = tokens_BND.reshape(-1, height, width, side, side, tokens_BND.shape[2] // side**2)
        return parts.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def _register_positions(self) -> None:
        """Tables of positions: a function of the config, so they are not saved."""
        if self.config.positions == "sincos":
            table_ND = get_2d_sincos_pos_embed(self.config.width, self.grid, base_size=self.grid[0])
            self.register_buffer("positions_ND", table_ND.float(), persistent=False)
            return
        cos_ND, sin_ND = get_2d_rotary_pos_embed(
            self.config.width // self.config.num_heads, ((0, 0), self.grid), self.grid
        )
        self.register_buffer("cos_ND", cos_ND.float(), persistent=False)
        self.register_buffer("sin_ND", sin_ND.float(), persistent=False)

    def _initialise(self) -> None:
        """As DiT: Xavier everywhere, but zero for what gates a block and for the output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                _zero(module.bias)
        nn.init.xavier_uniform_(self.tokens.weight.data.flatten(1))
        _zero(self.tokens.bias)
        for layer in (self.noise_embedding.linear_1, self.noise_embedding.linear_2):
            nn.init.normal_(layer.weight, std=0.02)
        gates = [block.modulation for block in self.blocks] + [self.shared_modulation]
        for zeroed in (*gates, self.modulation_out, self.proj_out):
            if isinstance(zeroed, nn.Linear):
                _zero(zeroed.weight)


class _Block(nn.Module):
    """Attention and feed-forward layers, each normalised, modulated and gated (Fig. 3 of DiT)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        inner = int(config.mlp_ratio * width)
        if config.activation == "swiglu":
            inner = max(1, round(2 * inner / 3 / _MULTIPLE)) * _MULTIPLE
        self.modulation: nn.Module = (
            _Table(width) if config.modulation == "shared" else nn.Linear(width, 6 * width)
        )
        self.norm1 = nn.LayerNorm(width, eps=_EPSILON, elementwise_affine=False)
        self.attention = Attention(
            width, heads=config.num_heads, dim_head=width // config.num_heads, bias=True,
            qk_norm="rms_norm" if config.qk_norm == "rms" else None, eps=_EPSILON,
        )  # fmt: skip
        self.norm2 = nn.LayerNorm(width, eps=_EPSILON, elementwise_affine=False)
        self.feed_forward = FeedForward(
            width, inner_dim=inner,
            activation_fn="swiglu" if config.activation == "swiglu" else "gelu-approximate",
        )  # fmt: skip

    def forward(self, tokens_BND: Tensor, given_BM: Tensor, rotate: Rotate | None) -> Tensor:
        modulation_B6D = self.modulation(given_BM).unflatten(1, (6, -1)).unsqueeze(2)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation_B6D.unbind(1)
        normed_BND = self.norm1(tokens_BND) * (1 + scale1) + shift1
        tokens_BND = tokens_BND + gate1 * self.attention(normed_BND, rotate=rotate)
        normed_BND = self.norm2(tokens_BND) * (1 + scale2) + shift2
        mixed_BND: Tensor = tokens_BND + gate2 * self.feed_forward(normed_BND)
        return mixed_BND


class _Table(nn.Module):
    """What a block adds to the modulation that all of them share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.values_M = nn.Parameter(torch.zeros(6 * width))

    def forward(self, shared_BM: Tensor) -> Tensor:
        return shared_BM + self.values_M


def _zero(parameter: Tensor | None) -> None:
    if parameter is not None:
        nn.init.zeros_(parameter)


def create_dit(
    config: DiTConfig,
    *,
    latent_shape: tuple[int, int, int],
    device: torch.device,
    input_channels: int | None = None,
) -> DiT:
    """A transformer on ``device`` with random weights for latents of shape (C, h, w).

    ``input_channels`` are C unless something else goes in beside the latents.

    Raises:
        ConfigError: Tokens do not tile the latent, or the attention cannot run.
    """
    channels, height, width = latent_shape
    if height % config.token_side or width % config.token_side:
        raise ConfigError(
            f"denoiser.network.token_side={config.token_side}: latents of {height}x{width} are no"
            " multiple of it; use another token_side or another patch_px"
        )
    dit = DiT(config, latent_shape=latent_shape, input_channels=input_channels or channels)
    dit.to(device)
    install_attention(dit, config.attention.backend, device=device)
    return dit


DiTPreset = Literal["tiny", "small", "base", "xlarge"]


def dit_preset(name: DiTPreset, *, token_side: int) -> DiTConfig:
    """A transformer of a known size; millions of parameters with 4 channels in brackets.

    `tiny` (2.8, for a CPU), and the paper's `small` (32.5), `base` (129.5) and `xlarge` (673.7).
    """
    match name:
        case "tiny":
            width, depth, num_heads = 160, 8, 5
        case "small":
            width, depth, num_heads = 384, 12, 6
        case "base":
            width, depth, num_heads = 768, 12, 12
        case "xlarge":
            width, depth, num_heads = 1152, 28, 16
    return DiTConfig(
        type="dit", token_side=token_side, width=width, depth=depth, num_heads=num_heads,
        modulation="shared" if name == "tiny" else "per_block",
    )  # fmt: skip
