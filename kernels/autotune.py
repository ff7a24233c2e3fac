"""Which attention runs: chosen once by a short measurement, and proven by what was dispatched.

A report names the operation that PyTorch really dispatched for the network's own shapes and type,
and on CUDA the kernels that the profiler saw; what was asked for is no proof.
"""

import logging
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from histodiff.errors import ConfigError
from histodiff.kernels import attention as kernels
from histodiff.kernels.attention import Backend, BackendChoice

_log = logging.getLogger(__name__)
_WARM_UP, _REPEATS = 3, 7
_ATTENTION = re.compile("flash|cudnn|efficient|cutlass|attention|softmax")
"""What the name of a dispatched operation of attention holds; of an unfused one, its softmax."""
_FAMILIES = {"cutlass": "efficient", "softmax": "math"}
_REFUSALS = (RuntimeError, ValueError)  # of torch and xformers, for a shape, a type or memory


class AttentionShape(NamedTuple):
    """The queries of one attention module, per image."""

    heads: int
    tokens: int
    head_dim: int


class AttentionUse(NamedTuple):
    """Everything that decides which attention kernel can run and how fast it is."""

    shapes: Mapping[AttentionShape, int]
    """Shapes of a network, and how many of its modules have each."""
    batch: int
    """Images of a forward pass."""
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class AttentionReport:
    """What really runs."""

    backend: Backend
    kernel: str
    """Family of what was dispatched: `flash`, `cudnn`, `efficient` or `math`; `a+b` for several."""
    operations: tuple[str, ...]
    """The dispatched operations, and on CUDA the profiler's names of the kernels."""
    num_modules: int
    milliseconds: dict[Backend, float]
    """What was measured per backend: all modules once, forward and backward. Empty if nothing."""

    def to_json(self) -> dict[str, Any]:
        """The fields, as a manifest holds them."""
        return {**asdict(self), "operations": list(self.operations)}


def choose_attention(
    module: nn.Module,
    requested: BackendChoice,
    *,
    use: AttentionUse,
    agree: Callable[[Tensor], Tensor],
) -> AttentionReport:
    """Installs attention into ``module``; ``auto`` on CUDA is measured. Says what really runs.

    ``agree`` is the mean over all ranks, so that every rank takes the same backend.

    Raises:
        ConfigError: A named backend cannot run here, or not with these shapes and this type.
    """
    measured = requested == "auto" and use.device.type == "cuda" and use.shapes
    times = _milliseconds(use, agree) if measured else {}
    default = kernels.resolved_backend(requested, use.device)
    backend = min(times, key=times.__getitem__, default=default)
    operations = dispatched_operations(use, backend)
    return AttentionReport(
        backend=backend,
        kernel="+".join(sorted({_family(name) for name in operations})) or "none",
        operations=(*operations, *_device_kernels(use, backend)),
        num_modules=kernels.install_attention(module, backend, device=use.device).num_modules,
        milliseconds=times,
    )


def dispatched_operations(use: AttentionUse, backend: Backend) -> tuple[str, ...]:
    """Names of the attention operations that ``backend`` dispatches for the shapes of ``use``.

    One image is enough: the choice of a kernel does not depend on the batch.

    Raises:
        ConfigError: The backend cannot run one of the shapes in this type.
    """
    with _Dispatched() as dispatched:
        for shape in use.shapes:
            try:
                _forward_and_backward(_drawn(shape, use, batch=1), backend)
            except _REFUSALS as error:
                raise ConfigError(
                    f"attention.backend '{backend}' cannot run heads x tokens x head_dim"
                    f" {'x'.join(map(str, shape))} in {str(use.dtype).removeprefix('torch.')} on"
                    f" {use.device.type} ({' '.join(str(error).split())[:200]}); use 'auto',"
                    " another precision, or heads of another width (head_dim, num_heads)"
                ) from error
    return tuple(dispatched.names)


class _Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations that reach the kernels, once autograd and composites are resolved."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removesuffix(".default")
        if _ATTENTION.search(name) and not re.search("backward|bwd", name):
            self.names[name] = None
        return func(*args, **(kwargs or {}))


def _family(operation: str) -> str:
    word: str = _ATTENTION.findall(operation)[0]
    return _FAMILIES.get(word, word)


def _device_kernels(use: AttentionUse, backend: Backend) -> dict[str, None]:
    """The profiler's names of the CUDA kernels of a forward pass; nothing on other devices."""
    if use.device.type != "cuda":
        return {}
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for shape in use.shapes:
            kernels.attention(*_drawn(shape, use, batch=1), backend=backend)
        torch.cuda.synchronize(use.device)
    return {e.name: None for e in profiled.events() if e.device_type.name != "CPU"}


def _milliseconds(use: AttentionUse, agree: Callable[[Tensor], Tensor]) -> dict[Backend, float]:
    """Time of all modules of ``use``, forward and backward, for every backend that can run it."""
    # `math` keeps every weight of tokens x tokens in memory; it never wins, but may use it all up.
    candidates = [name for name in kernels.usable_backends(use.device) if name != "math"]
    local = torch.tensor([_pass_milliseconds(use, backend) for backend in candidates])
    agreed = zip(candidates, agree(local.to(use.device, torch.float64)).tolist(), strict=True)
    return {backend: round(mean, 4) for backend, mean in agreed if math.isfinite(mean)}


def _pass_milliseconds(use: AttentionUse, backend: Backend) -> float:
    """Median time of one pass through all modules; infinite if the backend cannot run them."""
    times = []
    try:
        inputs = [_drawn(shape, use, batch=use.batch) for shape in use.shapes]
        for _ in range(_WARM_UP + _REPEATS):
            torch.cuda.synchronize(use.device)
            started = time.perf_counter()
            for given, count in zip(inputs, use.shapes.values(), strict=True):
                for _ in range(count):
                    _forward_and_backward(given, backend)
            torch.cuda.synchronize(use.device)
            times.append(1000 * (time.perf_counter() - started))
    except _REFUSALS as error:
        _log.info("attention: backend %s cannot run here: %s", backend, error)
        return math.inf
    return statistics.median(times[_WARM_UP:])


def _forward_and_backward(given: list[Tensor], backend: Backend) -> None:
    with torch.enable_grad():
        out = kernels.attention(*given, backend=backend)
        torch.autograd.grad(out, given, torch.ones_like(out))


def _drawn(shape: AttentionShape, use: AttentionUse, *, batch: int) -> list[Tensor]:
    """Queries, keys and values as the processor lays them out: a token's heads side by side."""
    size = (3, batch, shape.tokens, shape.heads, shape.head_dim)
    generator = torch.Generator(use.device).manual_seed(0)
    drawn = torch.randn(size, generator=generator, device=use.device, dtype=use.dtype)
    return [part.requires_grad_() for part in drawn.transpose(2, 3)]
