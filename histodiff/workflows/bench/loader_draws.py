"""What training does with a batch after it has been read, timed apart: it runs beside the reader.

Random numbers are drawn on the CPU, per sample; the posterior and the whitening are arithmetic on
the device that trains.
"""

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from histodiff.latents import LatentBatch, Whitening
from histodiff.pretraining.posterior import posterior_draws

_REPEATS = 5


def draw_rates(batch: LatentBatch) -> dict[str, float | str]:
    """Rows per second of the draws, of the posterior and of whitening, and the device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    moments_BMHW = torch.from_numpy(batch.moments_BMHW).to(device).float()
    mean_BCHW, std_BCHW = moments_BMHW.chunk(2, dim=1)
    noise_BCHW = torch.randn_like(mean_BCHW)
    latents_BCHW = mean_BCHW + std_BCHW * noise_BCHW
    whitening = _whitening(batch)
    rows = len(batch.row_B)
    return {
        "draws_rows_per_s": rows / _seconds(lambda: _draws(batch, whitening)),
        "posterior_rows_per_s": rows / _seconds(lambda: mean_BCHW + std_BCHW * noise_BCHW),
        "whitening_rows_per_s": rows / _seconds(lambda: whitening.apply(latents_BCHW)),
        "device": device,
    }


def _draws(batch: LatentBatch, whitening: Whitening) -> object:
    return posterior_draws(
        batch.moments_BMHW,
        batch.sample_index_B,
        whitening=whitening,
        view="sample",
        seed=0,
        purpose="bench",
    )


def _whitening(batch: LatentBatch) -> Whitening:
    mean_BCHW = np.split(batch.moments_BMHW.astype(np.float64), 2, axis=1)[0]
    return Whitening(
        tuple(mean_BCHW.mean(axis=(0, 2, 3)).tolist()),
        tuple(mean_BCHW.std(axis=(0, 2, 3)).tolist()),
    )


def _seconds(work: Callable[[], object]) -> float:
    """Median time of the work, finished on its device."""
    spent = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - started)
    return median(spent)
