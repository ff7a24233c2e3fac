"""How work is cut up and run in one process: units, workers, seeds, interruption."""

from histodiff.runtime.seeds import derived_seed, generator_for
from histodiff.runtime.units import Encoder, PixelBlock, Reader, Worker, run_in_process

__all__ = [
    "Encoder",
    "PixelBlock",
    "Reader",
    "Worker",
    "derived_seed",
    "generator_for",
    "run_in_process",
]
