"""How small models are trained in tests."""

from typing import Any


def optimization(
    *,
    steps: int,
    batch: int,
    lr: float,
    warmup_steps: int = 0,
    shape: str = "cosine",
    log_steps: int = 10,
    checkpoint_steps: int = 200,
) -> dict[str, Any]:
    """The fields of an ``OptimizationConfig``, by steps."""
    return {
        "images": steps * batch,
        "batch": batch,
        "optimizer": {"type": "adamw", "lr": lr, "betas": [0.9, 0.999], "weight_decay": 0.01},
        "rate": {"warmup_images": warmup_steps * batch, "shape": shape},
        "log_images": log_steps * batch,
        "checkpoint_images": checkpoint_steps * batch,
    }
