"""Torch's own generators, for what a network draws itself (dropout)."""

import torch


def seed_torch(seed: int, *, device: torch.device) -> None:
    """Seeds the generators of the CPU and of ``device``.

    ``torch.manual_seed`` seeds every kind of device there could be, and takes a stack trace for
    each that is not in use: 1.6 ms, more than all else that a small step does beside its passes.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
