"""Seeds per sample: ``(seed, index, purpose)`` decides every random draw.

Results therefore do not depend on world size, micro-batch, worker count or a restart.
"""

import hashlib

import numpy as np


def derived_seed(seed: int, *parts: int | str) -> int:
    """A 63-bit seed that is a pure function of ``seed`` and ``parts``."""
    text = "\x1f".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(seed: int, *parts: int | str) -> np.random.Generator:
    """A NumPy generator seeded with ``derived_seed(seed, *parts)``."""
    return np.random.Generator(np.random.Philox(derived_seed(seed, *parts)))
