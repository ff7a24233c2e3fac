"""The trainings that ``bench train`` lets take turns: ours, and loops without its comforts.

All start from the same weights and see the same batches. Ours is the trainer of ``pretrain`` with
everything that belongs to a step: the loader that reads and draws, the schedule, the mean loss and
gradient norm of all ranks, metrics, records, the watch on divergence, progress. The bare loops find
their batches drawn and on the device, keep the learning rate, and look at nothing.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.nn.utils import clip_grad_norm_

from histodiff.models.denoiser import Denoiser
from histodiff.pretraining.dataset import TrainingDataset
from histodiff.pretraining.initialisation import chosen_attention, initial_denoiser
from histodiff.pretraining.loader import training_batches
from histodiff.pretraining.loss import micro_loss
from histodiff.pretraining.posterior import CleanAndNoise
from histodiff.pretraining.spec import PretrainSpec
from histodiff.pretraining.trainer import DenoiserTrainer
from histodiff.training import DeepSpeedEngine, WeightAverages
from histodiff.training.optimizer import adamw

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16}


class Loop(Protocol):
    """A training that goes on step by step."""

    def step(self) -> torch.Tensor:
        """Does a step; its loss, a scalar."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


class TrainerLoop:
    """Ours.

    Args:
        trainer: Trains; not used otherwise.
    """

    def __init__(self, trainer: DenoiserTrainer) -> None:
        self.trainer = trainer
        self._steps = trainer.steps()
        self.waited_seconds: list[float] = []
        """How long each step waited for its batch."""

    def step(self) -> torch.Tensor:
        done = next(self._steps)
        self.waited_seconds.append(done.waited_seconds)
        return torch.tensor(done.loss)

    def close(self) -> None:
        self._steps.close()
        self.trainer.close()


class EngineLoop:
    """The same engine of DeepSpeed's and the same averages, and nothing else.

    Args:
        spec: The workload; one micro-batch is a batch.
        batches: Of the first steps.
    """

    def __init__(self, spec: PretrainSpec, batches: Sequence[CleanAndNoise]) -> None:
        self._losses = _Losses(spec, batches)
        self._engine = DeepSpeedEngine(self._losses.denoiser, config=spec.train, device=spec.device)
        self._averages = _averages(self._engine.masters(), spec)

    def step(self) -> torch.Tensor:
        deepspeed: Any = self._engine.module
        loss = self._losses.next(deepspeed)
        deepspeed.backward(loss)
        deepspeed.step()
        self._averages.update(self._engine.masters(), images_seen=self._losses.images_seen)
        return loss.detach()

    def close(self) -> None:
        self._engine.close()


class TorchLoop:
    """Plain torch: the same optimizer, clipping, precision and averages without DeepSpeed.

    Args:
        spec: The workload; one micro-batch is a batch.
        batches: Of the first steps.
    """

    def __init__(self, spec: PretrainSpec, batches: Sequence[CleanAndNoise]) -> None:
        self._losses = _Losses(spec, batches)
        self._config, self._device = spec.train, spec.device
        self._parameters = list(self._losses.denoiser.parameters())
        self._optimizer = adamw(self._losses.denoiser, spec.train.optimizer, fused=True)
        self._averages = _averages(self._parameters, spec)

    def step(self) -> torch.Tensor:
        dtype = _AUTOCAST[self._config.precision]
        with torch.autocast(self._device, dtype, enabled=dtype is not None):
            loss = self._losses.next(self._losses.denoiser)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._config.optimizer.clip is not None:
            clip_grad_norm_(self._parameters, self._config.optimizer.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._averages.update(self._parameters, images_seen=self._losses.images_seen)
        return loss.detach()

    def close(self) -> None:
        """Nothing is held but memory."""


class _Losses:
    """The losses of consecutive steps of a denoiser with its first weights."""

    def __init__(self, spec: PretrainSpec, batches: Sequence[CleanAndNoise]) -> None:
        self._spec, self._batches = spec, iter(batches)
        shape = tuple(batches[0].clean_BCHW.shape[1:])
        assert len(shape) == 3
        self.denoiser: Denoiser = initial_denoiser(spec, shape)
        chosen_attention(self.denoiser, spec, batch=spec.train.batch)
        self.images_seen = 0

    def next(self, denoise: torch.nn.Module) -> torch.Tensor:
        """The loss of the next batch; ``denoise`` is the denoiser, or what wraps it."""
        self.images_seen += self._spec.train.batch
        return micro_loss(
            denoise,
            part=next(self._batches),
            preconditioning=self.denoiser.preconditioning,
            weighting=self._spec.denoiser.objective.weighting,
        )


def first_batches(spec: PretrainSpec, count: int) -> list[CleanAndNoise]:
    """The batches of the first steps, drawn and on the device."""
    with training_batches(
        TrainingDataset.open(spec).mixture,
        whitening=spec.whitening,
        view=spec.view,
        symmetries=spec.symmetries,
        channels=None,
        seed=spec.seed,
        rank=0,
        world_size=1,
        steps=range(count),
        batch_of=int,
    ) as batches:
        return [CleanAndNoise(*(tensor.to(spec.device) for tensor in part)) for part in batches]


def _averages(weights: Sequence[torch.Tensor], spec: PretrainSpec) -> WeightAverages:
    return WeightAverages(weights, config=spec.train.ema, batch=spec.train.batch)
