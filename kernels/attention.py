"""Attention: one dispatcher, and its installation into diffusers' modules.

``sdpa`` lets PyTorch pick a kernel; ``flash``, ``cudnn``, ``efficient`` and ``math`` pin one of
SDPA's; ``xformers`` is CUDA only. ``autotune`` measures them and says which kernel really ran.
diffusers' own ``set_attention_backend`` does nothing on UNets, so our processor replaces theirs.
Legend: B batch, H heads, N tokens, D dimension of a head, C channels.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from histodiff.config import Config
from histodiff.errors import ConfigError

if find_spec("xformers") is not None:
    from xformers.ops import memory_efficient_attention
else:
    memory_efficient_attention = None

Backend = Literal["sdpa", "flash", "cudnn", "efficient", "math", "xformers"]
BackendChoice = Literal["auto", "sdpa", "flash", "cudnn", "efficient", "math", "xformers"]

_SDPA_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_EVERYWHERE: tuple[Backend, ...] = ("sdpa", "flash", "math")
_CUDA_ONLY: tuple[Backend, ...] = ("cudnn", "efficient", "xformers")


class AttentionConfig(Config):
    """Which implementation of attention runs."""

    backend: BackendChoice = "auto"
    """`auto` measures on CUDA and takes `sdpa` (PyTorch's own pick) elsewhere; `flash`, `cudnn`,
    `efficient` and `math` pin a kernel of SDPA. One that cannot run is an error."""


class Installation(NamedTuple):
    """What was installed; ``autotune`` finds out which kernel it runs."""

    backend: Backend
    num_modules: int


def usable_backends(device: torch.device) -> tuple[Backend, ...]:
    """Backends that this machine may run on ``device``; shapes and types may still rule one out."""
    if device.type != "cuda":
        return _EVERYWHERE
    installed = memory_efficient_attention is not None
    return _EVERYWHERE + tuple(b for b in _CUDA_ONLY if b != "xformers" or installed)


def resolved_backend(requested: BackendChoice, device: torch.device) -> Backend:
    """The backend that runs on ``device`` where nothing was measured: ``auto`` is ``sdpa``.

    Raises:
        ConfigError: A backend was asked for by name, and cannot run here.
    """
    if requested == "auto":
        return "sdpa"
    if requested in usable_backends(device):
        return requested
    if device.type == "cuda":
        raise ConfigError(
            f"attention.backend '{requested}': it is not installed; pip install xformers, or use"
            " 'auto' or 'sdpa'"
        )
    raise ConfigError(
        f"attention.backend '{requested}' cannot run on {device.type}: it runs on CUDA only; use"
        f" 'auto' or one of {', '.join(_EVERYWHERE)}"
    )


def attention(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, *, backend: Backend) -> Tensor:
    """``softmax(q k^T / sqrt(D)) v`` (Vaswani et al. 2017, Eq. 1), of the shape of ``q_BHND``."""
    if backend == "sdpa":
        return scaled_dot_product_attention(q_BHND, k_BHND, v_BHND)
    if backend != "xformers":
        with sdpa_kernel(_SDPA_KERNELS[backend]):
            return scaled_dot_product_attention(q_BHND, k_BHND, v_BHND)
    assert memory_efficient_attention is not None  # resolved_backend has seen to it
    q_BNHD, k_BNHD, v_BNHD = (part.transpose(1, 2) for part in (q_BHND, k_BHND, v_BHND))
    out_BNHD: Tensor = memory_efficient_attention(q_BNHD, k_BNHD, v_BNHD)
    return out_BNHD.transpose(1, 2)


class SelfAttentionProcessor:
    """Self-attention of diffusers' ``Attention`` module, through ``attention``.

    Stands in for diffusers' ``AttnProcessor2_0`` where there is neither a mask nor a context, which
    is so in ``UNet2DModel``, ``AutoencoderKL`` and our transformer.
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
        rotate: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The module's output, of the shape of ``hidden_states`` (BCHW or BNC).

        ``rotate`` turns queries and keys (BHND) by their positions.
        """
        if encoder_hidden_states is not None or attention_mask is not None:
            raise NotImplementedError("only self-attention without a mask is served")
        assert attn.spatial_norm is None
        if hidden_states.ndim == 4:
            mixed_BNC = self._mixed(attn, hidden_states.flatten(2).transpose(1, 2), rotate)
            mixed = mixed_BNC.transpose(1, 2).reshape(hidden_states.shape)
        else:
            mixed = self._mixed(attn, hidden_states, rotate)
        if attn.residual_connection:
            mixed = mixed + hidden_states
        scaled: Tensor = mixed / attn.rescale_output_factor
        return scaled

    def _mixed(
        self, attn: Any, tokens_BNC: Tensor, rotate: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        if attn.group_norm is not None:
            tokens_BNC = attn.group_norm(tokens_BNC.transpose(1, 2)).transpose(1, 2)
        projections = (attn.to_q(tokens_BNC), attn.to_k(tokens_BNC), attn.to_v(tokens_BNC))
        q_BHND, k_BHND, v_BHND = (
            part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in projections
        )
        if attn.norm_q is not None:
            q_BHND, k_BHND = attn.norm_q(q_BHND), attn.norm_k(k_BHND)
        if rotate is not None:
            q_BHND, k_BHND = rotate(q_BHND), rotate(k_BHND)
        out_BHND = attention(q_BHND, k_BHND, v_BHND, backend=self.backend)
        out_BNC = out_BHND.transpose(1, 2).flatten(2).to(tokens_BNC.dtype)
        projected: Tensor = attn.to_out[1](attn.to_out[0](out_BNC))
        return projected


def install_attention(
    module: nn.Module, backend: BackendChoice, *, device: torch.device
) -> Installation:
    """Makes every attention module below ``module`` run on ``backend``; measures nothing.

    Raises:
        ConfigError: The backend was named, and cannot run on ``device``.
    """
    resolved = resolved_backend(backend, device)
    served: list[Any] = [part for part in module.modules() if hasattr(part, "set_processor")]
    for part in served:
        part.set_processor(SelfAttentionProcessor(resolved))
    return Installation(resolved, len(served))
