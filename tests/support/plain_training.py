"""Pre-training written down plainly, as an oracle: one process, whole batches, no engine."""

from dataclasses import dataclass

import torch
from torch import Tensor

from histodiff.pretraining.dataset import TrainingDataset
from histodiff.pretraining.initialisation import initial_denoiser
from histodiff.pretraining.posterior import posterior_draws
from histodiff.pretraining.spec import PretrainSpec


@dataclass(frozen=True)
class PlainResult:
    """What an undisturbed training gives."""

    losses: list[float]
    averages: list[dict[str, Tensor]]
    """For each half-life, the average in double precision."""


def plain_training(spec: PretrainSpec) -> PlainResult:
    """Trains as ``spec`` says, with torch's AdamW and averages in double precision."""
    torch.set_num_threads(1)
    train, data = spec.train, TrainingDataset.open(spec)
    denoiser = initial_denoiser(spec, data.latent_shape)
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), betas=train.optimizer.betas, eps=train.optimizer.eps,
        weight_decay=train.optimizer.weight_decay, foreach=False,
    )  # fmt: skip
    weights = dict(denoiser.named_parameters())
    averages = [
        {name: weight.detach().double() for name, weight in weights.items()}
        for _ in train.ema.half_lives_images
    ]
    losses = []
    for step in range(train.num_steps):
        batch = data.mixture.batch_at(step)
        clean, noise, uniform, _ = posterior_draws(
            batch.moments_BMHW, batch.sample_index_B, view=spec.view, symmetries=spec.symmetries,
            channels=data.symmetries, whitening=spec.whitening, seed=spec.seed, purpose="train",
        )  # fmt: skip
        sigma = denoiser.preconditioning.training_sigma(uniform).float()
        noisy = clean + sigma.reshape(-1, 1, 1, 1) * noise
        loss = denoiser.preconditioning.loss(denoiser(noisy, sigma), clean, sigma).mean()
        optimizer.zero_grad()
        loss.backward()
        if train.optimizer.clip is not None:
            torch.nn.utils.clip_grad_norm_(denoiser.parameters(), train.optimizer.clip)
        seen = (step + 1) * train.batch
        optimizer.param_groups[0]["lr"] = train.lr_at(seen)
        optimizer.step()
        losses.append(float(loss.detach()))
        for half_life, average in zip(train.ema.half_lives_images, averages, strict=True):
            rampup = train.ema.rampup
            shortened = half_life if rampup is None else min(half_life, rampup * seen)
            decay = 0.5 ** (train.batch / shortened)
            for name, weight in weights.items():
                average[name] = decay * average[name] + (1 - decay) * weight.detach().double()
    return PlainResult(losses, averages)
