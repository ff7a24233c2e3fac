"""The ranks of a training: those of the process group, or this process alone where there is none.

What trains on many ranks and what trains in one process share their code through these few
functions. All but ``rank`` and ``world_size`` are called by all ranks together.

What ranks say to each other is JSON or plain bytes: torch's own exchange of objects unpickles, and
so runs, whatever comes through a port that anybody on the network may reach.
"""

import json
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed

JsonT = TypeVar("JsonT")


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


def broadcast(value: JsonT) -> JsonT:
    """What rank 0 gives, on every rank: a JSON value; what the others give is not looked at."""
    if not _is_gang():
        return value
    found: JsonT = json.loads(broadcast_bytes(_encoded(value) if rank() == 0 else b""))
    return found


def broadcast_bytes(data: bytes) -> bytes:
    """The bytes that rank 0 gives, on every rank; what the others give is not looked at."""
    if not _is_gang():
        return data
    size = torch.tensor([len(data)], dtype=torch.int64, device=_device())
    torch.distributed.broadcast(size, src=0)
    sent = _bytes_tensor(data if rank() == 0 else b"", int(size))
    torch.distributed.broadcast(sent, src=0)
    return bytes(sent.cpu().numpy())


def all_gather(value: JsonT) -> list[JsonT]:
    """What each rank gives, in order, on every rank: JSON values."""
    if not _is_gang():
        return [value]
    data = _encoded(value)
    size = torch.tensor([len(data)], dtype=torch.int64, device=_device())
    sizes = [torch.empty_like(size) for _ in range(world_size())]
    torch.distributed.all_gather(sizes, size)
    longest = max(int(each) for each in sizes)
    gathered = [_bytes_tensor(b"", longest) for _ in range(world_size())]
    torch.distributed.all_gather(gathered, _bytes_tensor(data, longest))
    return [
        json.loads(bytes(part.cpu().numpy()[: int(each)]))
        for part, each in zip(gathered, sizes, strict=True)
    ]


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The mean of ``value`` over all ranks, on every rank."""
    total = value.detach().clone()
    if _is_gang():
        torch.distributed.all_reduce(total)
    return total / world_size()


def _is_gang() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def _bytes_tensor(data: bytes, size: int) -> torch.Tensor:
    """``data`` at the start of a tensor of ``size`` bytes, where the process group wants it."""
    padded = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
    return torch.nn.functional.pad(padded, (0, size - len(data))).to(_device())


def _device() -> torch.device:
    """Where the collectives of the process group take tensors from."""
    if torch.distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
