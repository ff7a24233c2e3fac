"""Learning-rate schedules as pure functions of the training clock.

The clock is whatever the caller counts - optimizer steps for small models, ``images_seen`` for
pre-training. Being a function of the clock, a rate needs no state in a checkpoint.
"""

import math
from typing import Literal

RateShape = Literal["constant", "cosine", "inverse_sqrt"]
"""What the rate does after the warm-up: stays, falls to zero along half a cosine, or falls with the
square root of the clock from the end of a warm-up on (as Karras et al. 2024 train EDM2)."""


def rate_factor(clock: float, *, warmup: float, total: float, shape: RateShape) -> float:
    """Factor in [0, 1] on the peak learning rate at ``clock``.

    Args:
        clock: Position at the end of the step, in (0, total]; the first step is not wasted at 0.
        warmup: Length of the linear warm-up, in units of the clock.
        total: Length of the training, in units of the clock.
        shape: What follows the warm-up.
    """
    if clock < warmup:
        return clock / warmup
    if shape == "constant":
        return 1.0
    if shape == "inverse_sqrt":
        return math.sqrt(warmup / clock)
    done = min((clock - warmup) / max(total - warmup, 1e-9), 1.0)
    return 0.5 * (1.0 + math.cos(math.pi * done))
