"""The ranks of a training: those of the process group, or this process alone where there is none.

What trains on many ranks and what trains in one process share their code through these few
functions. All but ``rank`` and ``world_size`` are called by all ranks together.
"""

from typing import Any, TypeVar

import torch
import torch.distributed

T = TypeVar("T")


def rank() -> int:
    """Number of this rank, from 0."""
    return torch.distributed.get_rank() if _is_gang() else 0


def world_size() -> int:
    """Number of ranks."""
    return torch.distributed.get_world_size() if _is_gang() else 1


def barrier() -> None:
    """Returns when every rank has called it."""
    if _is_gang():
        torch.distributed.barrier()


def broadcast(value: T) -> T:
    """What rank 0 gives, on every rank; what the others give is not looked at."""
    values: list[Any] = [value if rank() == 0 else None]
    if _is_gang():
        torch.distributed.broadcast_object_list(values)
    found: T = values[0]
    return found


def all_gather(value: T) -> list[T]:
    """What each rank gives, in order, on every rank."""
    values: list[Any] = [value] * world_size()
    if _is_gang():
        torch.distributed.all_gather_object(values, value)
    return values


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The mean of ``value`` over all ranks, on every rank."""
    total = value.detach().clone()
    if _is_gang():
        torch.distributed.all_reduce(total)
    return total / world_size()


def _is_gang() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
