"""The classifiers of a ceiling: trained one after the other, each scored once.

Images of a seed and fold are read when the first classifier needs them, and decoded for one arm at
a time; a run that goes on reads only what is still to be trained.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from histodiff.artifacts import Artifact
from histodiff.classification.images import Images, RealImages, labelled_patches, read_real
from histodiff.classification.learning_set import JoinMixing, added_images, learning_set
from histodiff.classification.stand_ins import Fold, StandIns, reconstructed
from histodiff.classification.training import predicted_probability, trained_classifier
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.evaluation.metrics import Scored, metric_values, positive_class
from histodiff.models.autoencoder import Autoencoder
from histodiff.storage import StoragePath, remove_tree
from histodiff.telemetry import Progress, progress
from histodiff.training import CHECKPOINTS
from histodiff.workflows.ceiling.config import CeilingConfig
from histodiff.workflows.ceiling.trials import (
    Arm,
    Treatment,
    Trial,
    TrialScore,
    read_score,
    treatments,
    write_score,
)
from histodiff.workflows.networks import open_autoencoder


class Classifiers:
    """Trains and scores the classifiers; reads and decodes only what one of them still needs."""

    def __init__(
        self,
        config: CeilingConfig,
        index: PatchIndex,
        inputs: Mapping[str, Artifact],
        folder: StoragePath,
        device: str,
    ) -> None:
        self._config, self._index, self._inputs = config, index, inputs
        self._folder, self._device = folder, device

    def scores(self, plans: Sequence[StandIns]) -> dict[Trial, TrialScore]:
        """What every classifier scores, in the order of seeds, folds and arms."""
        planned = list(self._trials(plans))
        done = {trial: read_score(self._folder, trial) for trial, _ in planned}
        already = sum(score is not None for score in done.values())
        found: dict[Trial, TrialScore] = {}
        with progress("ceiling", total=len(done), unit="classifiers", already=already) as bar:
            images: _FoldImages | None = None
            for trial, fold in planned:
                score = done[trial]
                if score is None:
                    if images is None or images.fold is not fold:
                        images = self._read(fold)
                    score = self._trained(trial, images, bar)
                found[trial] = score
        return found

    def _trials(self, plans: Sequence[StandIns]) -> Iterator[tuple[Trial, Fold]]:
        arms = treatments(len(self._config.autoencoders))
        for seed, plan in zip(self._config.seeds, plans, strict=True):
            for number, fold in enumerate(plan.folds):
                for treatment in arms:
                    yield Trial(seed, number, treatment), fold

    def _read(self, fold: Fold) -> "_FoldImages":
        read = (
            read_real(self._index, patches, classes=self._index.classes)
            for patches in (fold.labelled_N, fold.added_M)
        )
        return _FoldImages(fold, *read)

    def _trained(self, trial: Trial, images: "_FoldImages", bar: Progress) -> TrialScore:
        config, held_out = self._config, self._held_out
        checkpoints = self._folder / CHECKPOINTS / trial.key
        added = self._added(trial.treatment, images, trial.seed)
        learned = images.labelled.images
        num_classes = len(self._index.classes)
        joining = None if added is None else added_images(added, num_classes=num_classes)
        trained = trained_classifier(
            learning_set(
                learned, joining, num_classes=num_classes, mixing=JoinMixing(type="join")
            ),
            backbone=config.backbone, training=config.training,
            num_classes=num_classes, seed=trial.seed, device=self._device,
            checkpoints=checkpoints, run="ceiling",
        )  # fmt: skip
        probability_NK = predicted_probability(
            trained.classifier, held_out.images.pixels_NHWC, batch=config.batch,
            device=self._device,
        )  # fmt: skip
        slides = self._index.patches["slide_id"].take(held_out.patches_N).to_pylist()
        score = TrialScore(
            metrics=metric_values(
                Scored(probability_NK, held_out.images.target_N, tuple(slides)),
                positive=positive_class(self._index.classes, None),
            ),
            real=len(learned),
            added=0 if added is None else len(added),
            wanted=0 if added is None else images.fold.num_wanted,
            failed=(*images.labelled.failed, *images.added.failed, *held_out.failed),
        )
        write_score(self._folder, trial, score)
        remove_tree(checkpoints)
        bar.advance(1, last=trial.key, balanced_accuracy=score.metrics["balanced_accuracy"])
        return score

    def _added(self, treatment: Treatment, images: "_FoldImages", seed: int) -> Images | None:
        """What joins the labelled patches."""
        if treatment.arm is Arm.REAL:
            return None
        if treatment.autoencoder is None:
            return images.added.images
        pixels_NHWC = reconstructed(
            images.added.images.pixels_NHWC, self._autoencoders[treatment.autoencoder],
            patches_N=images.added.patches_N, view=self._config.posterior,
            batch=self._config.batch, seed=seed, device=self._device,
        )  # fmt: skip
        return Images(pixels_NHWC, images.added.images.target_N)

    @cached_property
    def _held_out(self) -> RealImages:
        patches = labelled_patches(self._index, split=self._config.split)
        return read_real(self._index, patches, classes=self._index.classes)

    @cached_property
    def _autoencoders(self) -> list[Autoencoder]:
        return [
            open_autoencoder(artifact, device=self._device)
            for key, artifact in self._inputs.items()
            if key != "patches"
        ]


@dataclass(frozen=True)
class _FoldImages:
    """The images of a fold."""

    fold: Fold
    labelled: RealImages
    added: RealImages
