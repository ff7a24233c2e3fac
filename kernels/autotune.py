"""Which attention runs: chosen once by a short measurement, and proven by what was dispatched.

A report names the operation that PyTorch really dispatched for the network's own shapes and type,
and on CUDA the kernels that the profiler saw; what was asked for is no proof. Legend: B batch,
H heads, N tokens, D dimension of a head.
"""

import logging
import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from histodiff.errors import ConfigError
from histodiff.kernels.attention import (
    Backend,
    BackendChoice,
    attention,
    install_attention,
    resolved_backend,
    usable_backends,
)

_log = logging.getLogger(__name__)

_WARM_UP, _REPEATS = 3, 7
_FAMILIES = {"flash": "flash", "cudnn": "cudnn", "efficient": "efficient", "cutlass": "efficient"}
"""What the name of a fused operation holds, and what we call it."""


@dataclass(frozen=True)
class AttentionShape:
    """The queries of one attention module, per image: ``(heads, tokens, head_dim)``."""

    heads: int
    tokens: int
    head_dim: int

    def __str__(self) -> str:
        return f"{self.heads}x{self.tokens}x{self.head_dim}"


@dataclass(frozen=True)
class AttentionUse:
    """Everything that decides which attention kernel can run and how fast it is."""

    shapes: Mapping[AttentionShape, int]
    """Shapes of a network, and how many of its modules have each."""
    batch: int
    """Images of a forward pass."""
    dtype: torch.dtype
    """Type of queries, keys and values."""
    device: torch.device


@dataclass(frozen=True)
class AttentionReport:
    """What really runs."""

    backend: Backend
    """The backend that is installed."""
    kernel: str
    """Family of what it dispatched: `flash`, `cudnn`, `efficient` or `math`; `a+b` for several."""
    operations: tuple[str, ...]
    """The dispatched operations, and on CUDA the profiler's names of the kernels."""
    num_modules: int
    milliseconds: dict[str, float]
    """What was measured per backend: all modules once, forward and backward. Empty if nothing."""

    def __str__(self) -> str:
        names = ", ".join(self.operations)
        times = ", ".join(f"{name} {value:.2f} ms" for name, value in self.milliseconds.items())
        return (
            f"attention: backend {self.backend}, kernel {self.kernel} ({names}),"
            f" {self.num_modules} modules" + (f"; measured {times}" if times else "")
        )

    def to_json(self) -> dict[str, Any]:
        """The fields, as a manifest holds them."""
        return {**asdict(self), "operations": list(self.operations)}


def attention_shapes(module: nn.Module, run: Callable[[], Any]) -> Counter[AttentionShape]:
    """Shapes of every attention module below ``module`` that ``run``, a forward pass, reaches."""
    seen: Counter[AttentionShape] = Counter()

    def note(part: Any, given: tuple[Tensor, ...]) -> None:
        tokens = given[0].shape[-2:].numel()
        seen[AttentionShape(part.heads, tokens, part.inner_dim // part.heads)] += 1

    hooks = [
        part.register_forward_pre_hook(note)
        for part in module.modules()
        if hasattr(part, "set_processor")
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def choose_attention(
    module: nn.Module,
    requested: BackendChoice,
    *,
    use: AttentionUse,
    agree: Callable[[Tensor], Tensor],
) -> AttentionReport:
    """Installs attention into ``module``; ``auto`` on CUDA is measured. Says what really runs.

    Args:
        module: The network.
        requested: Backend of the config.
        use: Its shapes, batch and type.
        agree: Mean over all ranks, so that every rank takes the same backend.

    Raises:
        ConfigError: A named backend cannot run here, or not with these shapes and this type.
    """
    times: dict[Backend, float] = {}
    backend = resolved_backend(requested, use.device)
    if requested == "auto" and use.device.type == "cuda" and use.shapes:
        times = measured_milliseconds(use, agree=agree)
        backend = min(times, key=times.__getitem__)
    operations = dispatched_operations(use, backend)
    return AttentionReport(
        backend=backend,
        kernel="+".join(sorted({_family(name) for name in operations})) or "none",
        operations=(*operations, *_device_kernels(use, backend)),
        num_modules=install_attention(module, backend, device=use.device).num_modules,
        milliseconds={name: round(value, 4) for name, value in times.items()},
    )


def measured_milliseconds(
    use: AttentionUse, *, agree: Callable[[Tensor], Tensor]
) -> dict[Backend, float]:
    """Time of all modules of ``use``, forward and backward, for every backend that can run it."""
    # `math` keeps every weight of tokens x tokens in memory; it never wins, but may use it all up.
    candidates = [backend for backend in usable_backends(use.device) if backend != "math"]
    local = torch.tensor([_milliseconds(use, backend) for backend in candidates])
    times = agree(local.to(use.device, torch.float64)).tolist()
    return {
        backend: time
        for backend, time in zip(candidates, times, strict=True)
        if backend == "sdpa" or math.isfinite(time)
    }


def dispatched_operations(use: AttentionUse, backend: Backend) -> tuple[str, ...]:
    """Names of the attention operations that ``backend`` dispatches for the shapes of ``use``.

    One image is enough: the choice of a kernel does not depend on the batch.

    Raises:
        ConfigError: The backend cannot run one of the shapes in this type.
    """
    found: dict[str, None] = {}
    for shape in use.shapes:
        try:
            with _Dispatched() as dispatched:
                _forward_and_backward(_drawn(shape, use, batch=1), backend)
        except (RuntimeError, ValueError) as error:  # how torch and xformers refuse
            raise ConfigError(
                f"attention.backend '{backend}' cannot run heads x tokens x head_dim {shape} in"
                f" {str(use.dtype).removeprefix('torch.')} on {use.device.type}"
                f" ({_one_line(error)}); use 'auto', or another unet.head_dim or precision"
            ) from error
        found |= dict.fromkeys(_attention_names(dispatched.names))
    return tuple(found)


class _Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations that reach the kernels, once autograd and composites are resolved."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.names.append(str(func).removesuffix(".default"))
        return func(*args, **(kwargs or {}))


def _attention_names(names: Sequence[str]) -> list[str]:
    """The fused operations among ``names``; of an unfused attention, its softmax."""
    fused = [name for name in names if re.search("attention|flash|fmha|cutlass", name)]
    forward = [name for name in fused if "backward" not in name and "bwd" not in name]
    return forward or [name for name in names if name.endswith("softmax")]


def _family(operation: str) -> str:
    words = [family for word, family in _FAMILIES.items() if word in operation]
    if words:
        return words[0]
    return "math" if operation.endswith("softmax") else operation


def _device_kernels(use: AttentionUse, backend: Backend) -> tuple[str, ...]:
    """The profiler's names of the CUDA kernels of a forward pass; nothing on other devices."""
    if use.device.type != "cuda":
        return ()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiled:
        for shape in use.shapes:
            attention(*_drawn(shape, use, batch=1), backend=backend)
        torch.cuda.synchronize(use.device)
    on_device = [e.name for e in profiled.events() if e.device_type.name != "CPU"]
    return tuple(dict.fromkeys(on_device))


def _milliseconds(use: AttentionUse, backend: Backend) -> float:
    """Median time of one pass through all modules; infinite if the backend cannot run them."""
    try:
        return sum(
            count * _shape_milliseconds(shape, use, backend) for shape, count in use.shapes.items()
        )
    except (RuntimeError, ValueError) as error:  # how torch and xformers refuse
        _log.info("attention: backend %s cannot run here: %s", backend, _one_line(error))
        return math.inf


def _shape_milliseconds(shape: AttentionShape, use: AttentionUse, backend: Backend) -> float:
    given = _drawn(shape, use, batch=use.batch)
    times = []
    for _ in range(_WARM_UP + _REPEATS):
        torch.cuda.synchronize(use.device)
        started = time.perf_counter()
        _forward_and_backward(given, backend)
        torch.cuda.synchronize(use.device)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[_WARM_UP:])


def _forward_and_backward(given: tuple[Tensor, Tensor, Tensor], backend: Backend) -> None:
    with torch.enable_grad():
        out_BHND = attention(*given, backend=backend)
        torch.autograd.grad(out_BHND, given, torch.ones_like(out_BHND))


def _drawn(
    shape: AttentionShape, use: AttentionUse, *, batch: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as the processor lays them out: a token's heads side by side."""
    generator = torch.Generator(use.device).manual_seed(0)
    q, k, v = (
        torch.randn(
            (batch, shape.tokens, shape.heads, shape.head_dim),
            generator=generator, device=use.device, dtype=use.dtype,
        ).transpose(1, 2).requires_grad_()
        for _ in range(3)
    )  # fmt: skip
    return q, k, v


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
