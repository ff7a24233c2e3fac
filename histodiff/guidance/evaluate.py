"""How good a guide is at every noise level, on labelled latents it was not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from histodiff.diffusion import Guide
from histodiff.guidance.labelled import LabelledLatents, bin_sigma, noisy_batch
from histodiff.telemetry import progress


@dataclass(frozen=True)
class BinScore:
    """Accuracy and mean cross-entropy (nats) in one bin of noise levels."""

    sigma_low: float
    sigma_high: float
    accuracy: float
    cross_entropy: float
    num: int


@torch.no_grad()
def accuracy_by_sigma(
    guide: Guide,
    latents: LabelledLatents,
    *,
    bins: Sequence[tuple[float, float]],
    batch: int,
    seed: int,
    device: str,
) -> list[BinScore]:
    """One score per bin, every latent once per bin with noise drawn log-uniformly inside it."""
    scores = []
    with progress("evaluate guide", total=len(bins) * len(latents), unit="latents") as bar:
        for number, (low, high) in enumerate(bins):
            right, entropy = 0, 0.0
            for start in range(0, len(latents), batch):
                rows = range(start, min(start + batch, len(latents)))
                noisy = noisy_batch(
                    latents, rows, sigma_of=bin_sigma(low, high), seed=seed,
                    purpose=f"judge-{number}", indices=rows, device=device,
                )  # fmt: skip
                log_p_BK = guide.log_probabilities(noisy.noisy_BCHW, noisy.sigma_B)
                right += int((log_p_BK.argmax(dim=1) == noisy.target_B).sum())
                entropy += float(functional.nll_loss(log_p_BK, noisy.target_B, reduction="sum"))
                bar.advance(len(rows))
            scores.append(
                BinScore(low, high, right / len(latents), entropy / len(latents), len(latents))
            )
    return scores
