"""How good a guide is at every noise level, on labelled latents it was not trained on."""

import torch

from histodiff.diffusion import Guide
from histodiff.guidance.crossfit import Bins, judgements
from histodiff.guidance.labelled import LabelledLatents, bin_sigma
from histodiff.guidance.scores import BinScore, bin_score
from histodiff.telemetry import progress


def accuracy_by_sigma(
    guide: Guide, latents: LabelledLatents, *, bins: Bins, batch: int, seed: int, device: str
) -> list[BinScore]:
    """One score per bin, every latent once per bin with noise drawn log-uniformly inside it."""
    scores = []
    target_N = torch.from_numpy(latents.target_N)
    with progress("evaluate guide", total=len(bins) * len(latents), unit="latents") as bar:
        for number, each in enumerate(bins):
            log_p_NK = judgements(
                guide, latents, bin_sigma(*each), draws=1, batch=batch, seed=seed,
                purpose=f"judge-{number}", device=device,
            )  # fmt: skip
            scores.append(bin_score(log_p_NK, target_N, bin_of_sigma=each))
            bar.advance(len(latents))
    return scores
