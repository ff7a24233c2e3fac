"""Attention: one dispatcher, and its installation into diffusers' modules.

``xformers`` runs on CUDA only; ``sdpa`` (PyTorch) runs everywhere. ``auto`` is resolved once, at
installation, and reported. diffusers' own ``set_attention_backend`` does nothing on UNets, so our
processor replaces theirs. Legend: B batch, H heads, N tokens, D dimension of a head, C channels.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from histodiff.config import Config
from histodiff.errors import ConfigError

if find_spec("xformers") is not None:
    from xformers.ops import memory_efficient_attention
else:
    memory_efficient_attention = None

Backend = Literal["sdpa", "xformers"]


class AttentionConfig(Config):
    """Which implementation of attention runs."""

    backend: Literal["auto", "sdpa", "xformers"] = "auto"
    """`auto` takes xformers on CUDA where it is installed, and SDPA elsewhere."""


@dataclass(frozen=True)
class AttentionReport:
    """What really runs."""

    backend: Backend
    num_modules: int


def resolved_backend(
    requested: Literal["auto", "sdpa", "xformers"], device: torch.device
) -> Backend:
    """The backend that will run on ``device``.

    Raises:
        ConfigError: xformers was asked for by name, and cannot run here.
    """
    if requested == "sdpa":
        return "sdpa"
    usable = memory_efficient_attention is not None and device.type == "cuda"
    if requested == "xformers" and not usable:
        missing = "it runs on CUDA only" if device.type != "cuda" else "it is not installed"
        raise ConfigError(
            f"attention.backend 'xformers' cannot run on {device.type}: {missing};"
            " use 'sdpa' or 'auto', or pip install 'histodiff[gpu]' on a GPU machine"
        )
    return "xformers" if usable else "sdpa"


def attention(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, *, backend: Backend) -> Tensor:
    """``softmax(q k^T / sqrt(D)) v`` (Vaswani et al. 2017, Eq. 1), of the shape of ``q_BHND``."""
    if backend == "sdpa":
        return nn.functional.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND)
    assert memory_efficient_attention is not None  # resolved_backend has seen to it
    q_BNHD, k_BNHD, v_BNHD = (part.transpose(1, 2) for part in (q_BHND, k_BHND, v_BHND))
    out_BNHD: Tensor = memory_efficient_attention(q_BNHD, k_BNHD, v_BNHD)
    return out_BNHD.transpose(1, 2)


class SelfAttentionProcessor:
    """Self-attention of diffusers' ``Attention`` module, through ``attention``.

    Stands in for diffusers' ``AttnProcessor2_0`` where there is neither a mask nor a context, which
    is so in ``UNet2DModel`` and ``AutoencoderKL``.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend: Backend = backend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """The module's output, of the shape of ``hidden_states`` (BCHW)."""
        if encoder_hidden_states is not None or attention_mask is not None:
            raise NotImplementedError("only self-attention without a mask is served")
        assert attn.spatial_norm is None
        assert hidden_states.ndim == 4
        mixed_BNC = self._mixed(attn, hidden_states.flatten(2).transpose(1, 2))
        mixed_BCHW = mixed_BNC.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection:
            mixed_BCHW = mixed_BCHW + hidden_states
        scaled_BCHW: Tensor = mixed_BCHW / attn.rescale_output_factor
        return scaled_BCHW

    def _mixed(self, attn: Any, tokens_BNC: Tensor) -> Tensor:
        if attn.group_norm is not None:
            tokens_BNC = attn.group_norm(tokens_BNC.transpose(1, 2)).transpose(1, 2)
        projections = (attn.to_q(tokens_BNC), attn.to_k(tokens_BNC), attn.to_v(tokens_BNC))
        q_BHND, k_BHND, v_BHND = (
            part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in projections
        )
        out_BHND = attention(q_BHND, k_BHND, v_BHND, backend=self.backend)
        out_BNC = out_BHND.transpose(1, 2).flatten(2).to(tokens_BNC.dtype)
        projected: Tensor = attn.to_out[1](attn.to_out[0](out_BNC))
        return projected


def install_attention(
    module: nn.Module,
    backend: Literal["auto", "sdpa", "xformers"],
    *,
    device: torch.device,
) -> AttentionReport:
    """Makes every attention module below ``module`` run on ``backend``, and says which that is.

    Raises:
        ConfigError: The backend was named, and cannot run on ``device``.
    """
    resolved = resolved_backend(backend, device)
    served: list[Any] = [part for part in module.modules() if hasattr(part, "set_processor")]
    for part in served:
        part.set_processor(SelfAttentionProcessor(resolved))
    return AttentionReport(resolved, len(served))
