"""The guide ``adapter``: the frozen denoiser made conditional by a few labels.

A class embedding and low-rank weights (``models/adapter.py``) learn to denoise the labelled
latents, and latents that another guide has given soft labels; some are shown without their class,
so that the adapted denoiser of any class is learned too. How it steers is in ``adapter_guide.py``.
Legend: B batch, K classes, N latents.
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from histodiff.config import Config
from histodiff.diffusion import training_loss
from histodiff.guidance.adapter_guide import AdapterGuide
from histodiff.guidance.bayes import BayesConfig, ClassDenoise
from histodiff.guidance.calibration import CalibrationConfig
from histodiff.guidance.labelled import LabelledLatents, joined, noisy_batch
from histodiff.guidance.lesson import Lesson, Taught
from histodiff.guidance.noise import NoiseConfig, ObjectiveNoise, sigma_drawer, sigma_range
from histodiff.guidance.pseudo_labels import PseudoLabelConfig, shown_latents
from histodiff.models.adapter import AdaptedDenoiser, Adapter, AdapterConfig
from histodiff.runtime import derived_seed
from histodiff.storage import StoragePath
from histodiff.training import OptimizationConfig, fit


class AdapterTraining(OptimizationConfig):
    """How an adapter is trained; an image is a noisy latent."""

    noise: NoiseConfig = ObjectiveNoise(type="objective")
    """Noise levels of the training; by default those of the denoiser."""
    label_dropout: float = Field(default=0.1, gt=0, lt=1)
    """Share of the samples that are shown without their class."""
    class_balanced: bool = True
    """Draw the class first, then a latent of it."""
    symmetries: bool = False
    """Flip and turn latents."""


class AdapterGuideKind(Config):
    """The frozen denoiser with a class embedding and low-rank weights."""

    type: Literal["adapter"]
    network: AdapterConfig = AdapterConfig()
    """Size of what is learned."""
    training: AdapterTraining
    """How it is trained."""
    pseudo_labels: PseudoLabelConfig | None = None
    """Latents without labels that are learned from as well; null learns from labels alone."""
    bayes: BayesConfig = BayesConfig()
    """How much is spent on saying what a latent shows."""
    calibration: CalibrationConfig | None = CalibrationConfig(folds=2, draws=1)
    """How temperatures of what it says are found, by an adapter more for each fold; null has none.
    They do not change how it steers."""

    @property
    def noise(self) -> NoiseConfig:
        """Noise levels at which it stands in for the denoiser."""
        return self.training.noise

    @property
    def judged_batch(self) -> int:
        """Latents that are judged at a time."""
        return self.training.batch

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""
        return self.training.num_steps


def learn_adapter(
    kind: AdapterGuideKind, lesson: Lesson, latents: LabelledLatents, folder: StoragePath, run: str
) -> Taught:
    """A guide of the kind ``adapter``; the same call again resumes.

    Slides that are labelled, but not among ``latents``, are not learned from without their label
    either: nothing of them may be known when they are judged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(lesson.seed, "guide-weights"))
        adapter = Adapter(kind.network, lesson.denoiser, num_classes=len(lesson.classes))
    adapter = adapter.to(lesson.device)
    loss = adapter_loss(kind.training, lesson, latents, AdaptedDenoiser(lesson.denoiser, adapter))
    rows = fit(
        adapter, loss=loss, config=kind.training, seed=lesson.seed, checkpoints=folder, run=run
    )
    adapter.eval().requires_grad_(requires_grad=False)
    guide = adapter_guide(kind, lesson, adapter)
    return Taught(guide, rows)


def adapter_guide(kind: AdapterGuideKind, lesson: Lesson, adapter: Adapter) -> AdapterGuide:
    """The guide that a finished adapter is."""
    scales = lesson.preconditioning
    return AdapterGuide(
        adapter, AdaptedDenoiser(lesson.denoiser, adapter), lesson.classes,
        sigmas=sigma_range(kind.noise, scales), known=(scales.sigma_min, scales.sigma_max),
        bayes=kind.bayes,
    )  # fmt: skip


def adapter_loss(
    training: AdapterTraining, lesson: Lesson, labelled: LabelledLatents, denoise: ClassDenoise
) -> Callable[[int], Tensor]:
    """The loss of step ``k``: that of the denoiser's objective, of latents with their class."""
    denoiser, pseudo = lesson.denoiser, lesson.pseudo_labelled
    num_classes = len(lesson.classes)
    shown_at = shown_latents(labelled, pseudo, balanced=training.class_balanced, seed=lesson.seed)
    every = labelled if pseudo is None else joined(labelled, pseudo.latents)
    objective, scales = denoiser.config.objective, lesson.preconditioning

    def loss(step: int) -> Tensor:
        indices = range(step * training.batch, (step + 1) * training.batch)
        shown = [shown_at(index) for index in indices]
        batch = noisy_batch(
            every, [each.row for each in shown], sigma_of=sigma_drawer(training.noise, scales),
            seed=lesson.seed, purpose="guide", indices=indices, symmetries=training.symmetries,
            device=lesson.device,
        )  # fmt: skip
        class_B = torch.tensor(
            [
                num_classes if each.uniform < training.label_dropout else each.label
                for each in shown
            ],
            device=lesson.device,
        )
        denoised_BCHW = denoise(batch.noisy_BCHW, batch.sigma_B, class_B)
        uncertainty = denoiser.uncertainty
        return training_loss(
            scales.loss(denoised_BCHW, batch.clean_BCHW, batch.sigma_B), batch.sigma_B,
            weighting=objective.weighting, preconditioning=scales,
            uncertainty_B=None if uncertainty is None else uncertainty(batch.sigma_B).detach(),
        )  # fmt: skip

    return loss
