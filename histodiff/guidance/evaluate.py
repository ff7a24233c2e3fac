"""How good a guide is at every noise level, on labelled latents it was not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from histodiff.guidance.latents import LabelledLatents, bin_sigma, noisy_batch
from histodiff.models.guide import LatentClassifier
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
    classifier: LatentClassifier,
    latents: LabelledLatents,
    *,
    bins: Sequence[tuple[float, float]],
    batch: int,
    seed: int,
    device: str,
) -> list[BinScore]:
    """One score per bin, every latent once per bin with noise drawn log-uniformly inside it."""
    classifier.eval()
    scores = []
    with progress("judge guide", total=len(bins) * len(latents), unit="latents") as bar:
        for number, (low, high) in enumerate(bins):
            right, entropy = 0, 0.0
            for start in range(0, len(latents), batch):
                rows = range(start, min(start + batch, len(latents)))
                noisy = noisy_batch(
                    latents, rows, sigma_of=bin_sigma(low, high), seed=seed,
                    purpose=f"judge-{number}", indices=rows, device=device,
                )  # fmt: skip
                logits_BK = classifier(noisy.noisy_BCHW, noisy.sigma_B)
                right += int((logits_BK.argmax(dim=1) == noisy.target_B).sum())
                entropy += float(
                    functional.cross_entropy(logits_BK, noisy.target_B, reduction="sum")
                )
                bar.advance(len(rows))
            scores.append(
                BinScore(low, high, right / len(latents), entropy / len(latents), len(latents))
            )
    return scores
