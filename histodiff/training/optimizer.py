"""AdamW, and which weights decay: matrices and kernels do; norms, biases and embeddings do not.

Weight decay pulls towards zero. The scale of a norm, a bias, or the vector of a class or a position
has no reason to be small, and common recipes leave them alone (timm's optimizer groups, with which
Dosovitskiy et al. 2021 is trained there).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from histodiff.training.config import AdamWConfig


def adamw(module: nn.Module, config: AdamWConfig, *, fused: bool) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over what of ``module`` is trained."""
    return torch.optim.AdamW(
        parameter_groups(module, config),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=fused,
        foreach=not fused,
    )


def parameter_groups(module: nn.Module, config: AdamWConfig) -> list[dict[str, Any]]:
    """Groups for an optimizer: what decays, and what does not; frozen parameters are in neither.

    Without weight decay there is one group.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if config.weight_decay == 0:
        return [{"params": list(trained.values()), "weight_decay": 0.0}]
    spared = {name for name, parameter in trained.items() if parameter.ndim < 2}
    spared |= set(_spared_by_owner(module))
    groups = [
        {
            "params": [p for name, p in trained.items() if name not in spared],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for name, p in trained.items() if name in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _spared_by_owner(module: nn.Module) -> Iterator[str]:
    """Names of weights of embeddings, and of those that a timm model says should not decay."""
    for prefix, owner in module.named_modules():
        names = [name for name, _ in owner.named_parameters(recurse=False)]
        if not isinstance(owner, nn.Embedding):
            stated = getattr(owner, "no_weight_decay", None)
            names = list(stated()) if callable(stated) else []
        for name in names:
            yield f"{prefix}.{name}" if prefix else name
