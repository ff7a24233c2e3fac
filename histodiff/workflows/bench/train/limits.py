"""What the machine gives and what a training takes: FLOP/s, memory, the names of both."""

import os
import platform
import time
from collections.abc import Callable, Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

_MATMUL_SIDE = {"cpu": 2_048, "cuda": 8_192}
_MEMORY = "[memory]"
_CPU_INFO = Path("/proc/cpuinfo")
_ValueT = TypeVar("_ValueT")


def device_name(device: str) -> str:
    """The GPU or the processor."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def synchronize(device: str) -> None:
    """Waits until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def matmul_flops(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of one product of large matrices, with torch's threads as they are."""
    side = _MATMUL_SIDE[device]
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    matrix @ matrix
    synchronize(device)
    started = time.perf_counter()
    matrix @ matrix
    synchronize(device)
    return 2 * side**3 / (time.perf_counter() - started)


def with_peak_bytes(work: Callable[[], _ValueT], *, device: str) -> tuple[_ValueT, int]:
    """What ``work`` returns, and the most bytes of tensors that it had beyond those before.

    CUDA's allocator counts for itself; on a CPU the profiler sees every tensor come and go, but
    not the scratch memory inside of an operation.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        value = work()
        torch.cuda.synchronize()
        return value, torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler talks of GPUs that are missing
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        value = work()
    # prof.events() has no line for what an operation allocated; the raw events have them all.
    raw: Any = profiled.profiler
    events = [event for event in raw.kineto_results.events() if event.name() == _MEMORY]
    events.sort(key=lambda event: event.start_ns())
    return value, _highest(event.nbytes() for event in events)


def _highest(changes: Iterable[int]) -> int:
    """Highest value of a running sum that starts at 0."""
    return max(accumulate(changes, initial=0))
