"""How work is cut up and run in one process: units, workers, seeds, interruption."""

from histodiff.runtime.notice import Notice
from histodiff.runtime.prefetching import Prefetched
from histodiff.runtime.seeds import derived_seed, generator_for, generators_for
from histodiff.runtime.units import (
    Encoder,
    Finished,
    PixelBlock,
    ReadBytes,
    Reader,
    Worker,
    encode_in_process,
    run_in_process,
)

__all__ = [
    "Encoder",
    "Finished",
    "Notice",
    "PixelBlock",
    "Prefetched",
    "ReadBytes",
    "Reader",
    "Worker",
    "derived_seed",
    "encode_in_process",
    "generator_for",
    "generators_for",
    "run_in_process",
]
