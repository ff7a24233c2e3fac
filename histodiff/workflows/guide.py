"""``guide``: a few labelled latents -> a guide that steers sampling.

Inputs: a labelled LatentStore and a Denoiser on the same encoder; latents are whitened as the
denoiser's are. Only the labelled subset of the training split is learned from. Accuracy, AUC, log
loss and calibration by noise level are reported on labelled slides that were held out in turn, and
on the validation split.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from histodiff.artifacts import Artifact, CommandConfig, Kind, Reference, begin, open_artifact
from histodiff.cluster.site import Site
from histodiff.config import Location
from histodiff.data_prep.index.dev_splits import DevSplit
from histodiff.data_prep.index.splits import LabelBudget
from histodiff.diffusion import Guide, Preconditioning
from histodiff.errors import ConfigError
from histodiff.guidance.evaluate import accuracy_by_sigma
from histodiff.guidance.kinds import GuideKind, evaluation_bins, save_guide
from histodiff.guidance.labelled import LabelledLatents, read_labelled
from histodiff.guidance.latent_classifier import CleanGuideKind
from histodiff.guidance.lesson import Lesson
from histodiff.guidance.noise import sigma_range
from histodiff.guidance.pseudo_labels import PseudoLabelConfig, PseudoLabelled
from histodiff.guidance.scores import BinScore, chance
from histodiff.guidance.teaching import TrainedGuide, train_guide
from histodiff.latents import LatentStore, Whitening
from histodiff.models.denoiser import LAST, LoadedDenoiser
from histodiff.runtime import generator_for
from histodiff.runtime.threads import use_threads
from histodiff.storage import StoragePath, write_bytes
from histodiff.workflows.labels import (
    LABELS_SHA256,
    LabelledRows,
    labels_of_store,
    opened_store,
)
from histodiff.workflows.networks import (
    open_denoiser,
    require_patch_px,
    require_same_encoder,
    require_snapshot,
)
from histodiff.workflows.pseudo_labels import (
    Asked,
    pseudo_label_inputs,
    pseudo_labelled,
    require_pseudo_labels,
)
from histodiff.workflows.tables import write_losses

SIGMAS = "sigmas"
"""Key, in the contents of a guide, of the range of noise levels it was trained on."""


class GuideConfig(CommandConfig):
    """Config of ``guide``."""

    artifact_kind: ClassVar[Kind] = Kind.GUIDES

    latents: Annotated[Reference, Location()]
    """Labelled LatentStore."""
    denoiser: Annotated[Reference, Location()]
    """Denoiser to be steered; gives whitening, noise levels, and features."""
    snapshot: str = LAST
    """Its EMA snapshot, whose features a guide of the kind `features` reads, and which `adapter`
    adapts."""
    budget: LabelBudget
    """How many labels may be used."""
    dev_split: DevSplit | None = None
    """Divides the slides outside the test anew into training and validation; null leaves them. The
    same in every command that takes labels."""
    kind: GuideKind
    """Which guide, by its `type`, and how it is trained."""
    validation_latents: int | None = Field(default=None, ge=1)
    """Labelled validation latents that are judged at most, drawn by the seed; null judges all. A
    guide of the kind `adapter` takes ``2 bayes.levels bayes.pairs`` passes per class for each."""
    num_bins: int = Field(default=6, ge=1)
    """Bins of noise levels in the report of accuracy."""
    threads: int = Field(ge=1)
    """Torch threads; part of the identity, as results on a CPU depend on it."""
    seed: int
    """Decides the labelled subset, the first weights, and every draw."""

    def inputs(self) -> dict[str, Reference]:
        return {
            "latents": self.latents.as_kind(Kind.LATENTS),
            "denoiser": self.denoiser.as_kind(Kind.DENOISERS),
            **pseudo_label_inputs(self.pseudo_labels),
        }

    @property
    def pseudo_labels(self) -> PseudoLabelConfig | None:
        """What soft labels come from, for a guide that learns from any."""
        return None if isinstance(self.kind, CleanGuideKind) else self.kind.pseudo_labels


def guide(config: GuideConfig, site: Site) -> Artifact:
    """Trains the guide that ``config`` describes.

    Raises:
        ArtifactError: Latents and denoiser have different encoders.
        ConfigError: Latents and denoiser have patches of different sizes, there are not enough
            labels, or a class is missing.
    """
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    require_same_encoder(inputs["latents"], inputs["denoiser"])
    require_snapshot(inputs["denoiser"], config.snapshot)
    store = opened_store(inputs["latents"], dev_split=config.dev_split, seed=config.seed)
    require_patch_px(store.patch_px, inputs["denoiser"], owner=str(inputs["latents"].reference))
    labels = labels_of_store(store, budget=config.budget, seed=config.seed)
    judged = _judged_rows(config, store)
    require_pseudo_labels(config.pseudo_labels, inputs, store, labels_sha256=labels.sha256)
    draft = begin(root, config, inputs=inputs, inventory={"device_class": site.device})
    if draft.finished is not None:
        return draft.finished
    with draft:
        use_threads(config.threads)
        denoiser = open_denoiser(inputs["denoiser"], device=site.device, snapshot=config.snapshot)
        whitening = Whitening(denoiser.whitening_mean, denoiser.whitening_scale)
        read = partial(
            read_labelled,
            store,
            whitening=whitening,
            classes=store.classes,
            view=denoiser.info.view,  # the guide sees of a posterior what the denoiser saw
        )
        latents = read(labels.rows)
        preconditioning = denoiser.denoiser.preconditioning
        lesson = Lesson(
            tuple(store.classes), denoiser.denoiser, config.seed, site.device,
            _pseudo_labelled(config, inputs, store, denoiser, root, site.device),
        )  # fmt: skip
        validation = read(judged)
        trained = train_guide(
            lesson, latents, kind=config.kind, num_bins=config.num_bins, path=draft.path,
            validation=validation,
        )  # fmt: skip
        scores = _scores(trained.guide, validation, config, preconditioning, site.device)
        save_guide(draft.path, trained.guide, snapshot=config.snapshot)
        write_losses(draft.path, trained.rows)
        metrics = _metrics(config, labels, trained, scores, num_classes=len(store.classes))
        write_bytes(draft.path / "metrics.json", metrics)
        return draft.finish(
            {
                "classes": list(store.classes),
                "labelled_latents": len(latents),
                "val_latents": len(judged),
                "final_loss": trained.rows[-1].loss if trained.rows else None,
                "cross_fitted": _summary(trained.cross_fitted),
                "val": _summary(scores),
                SIGMAS: list(sigma_range(config.kind.noise, preconditioning)),
                "encoder_sha256": store.encoder_sha256,
                LABELS_SHA256: labels.sha256,
            }
        )


def estimate(config: GuideConfig, site: Site) -> dict[str, float | int | str]:
    """Labelled latents and training steps."""
    latents = open_artifact(site.storage_root, config.inputs()["latents"])
    store = opened_store(latents, dev_split=config.dev_split, seed=config.seed)
    labels = labels_of_store(store, budget=config.budget, seed=config.seed)
    return {"labelled_latents": len(labels.rows), "steps": config.kind.num_steps}


def _pseudo_labelled(
    config: GuideConfig,
    inputs: Mapping[str, Artifact],
    store: LatentStore,
    denoiser: LoadedDenoiser,
    root: StoragePath,
    device: str,
) -> PseudoLabelled | None:
    if config.pseudo_labels is None:
        return None
    return pseudo_labelled(
        config.pseudo_labels,
        Asked(inputs, store, denoiser, root, config.kind.judged_batch, config.seed, device),
    )


def _judged_rows(config: GuideConfig, store: LatentStore) -> npt.NDArray[np.int64]:
    """Labelled validation rows that the guide is judged on.

    Raises:
        ConfigError: There are none, and the guide is to be calibrated on them.
    """
    every = store.rows_of_split("val")
    known = [label is not None for label in store.rows["label"].take(every).to_pylist()]
    rows: npt.NDArray[np.int64] = every[np.array(known, bool)]
    calibration = config.kind.calibration
    if calibration is not None and calibration.slides == "validation" and not len(rows):
        raise ConfigError(
            "kind.calibration.slides=validation: no labelled latent is of split val; tile with"
            " split.val, or take `labelled` ones"
        )
    if config.validation_latents is None or len(rows) <= config.validation_latents:
        return rows
    drawn = generator_for(config.seed, "guide-validation").permutation(len(rows))
    found: npt.NDArray[np.int64] = np.sort(rows[drawn[: config.validation_latents]])
    return found


def _scores(
    guide: Guide,
    held_out: LabelledLatents,
    config: GuideConfig,
    preconditioning: Preconditioning,
    device: str,
) -> list[BinScore]:
    """Scores by noise level; none without labelled validation latents."""
    if not len(held_out):
        return []
    bins = evaluation_bins(config.kind, preconditioning, num_bins=config.num_bins)
    return accuracy_by_sigma(
        guide, held_out, bins=bins, batch=config.kind.judged_batch, seed=config.seed, device=device
    )


def _metrics(
    config: GuideConfig,
    labels: LabelledRows,
    trained: TrainedGuide,
    scores: Sequence[BinScore],
    *,
    num_classes: int,
) -> bytes:
    calibration = config.kind.calibration
    record = {
        "labelled": dict(labels.counts),
        "split": "val",
        "accuracy_by_sigma": [asdict(score) for score in scores],
        "cross_fitted_by_sigma": [asdict(score) for score in trained.cross_fitted],
        "chance": asdict(chance(num_classes)),
        "calibrated_on": None if calibration is None else calibration.slides,
        "chosen": trained.chosen,
    }
    return (json.dumps(record, indent=2) + "\n").encode()


def _summary(scores: Sequence[BinScore]) -> dict[str, float | None] | None:
    """The noise level at which most can be told, and the log loss where least can; None of none."""
    if not scores:
        return None
    best = min(scores, key=lambda score: score.log_loss)
    return {
        "best_sigma_low": best.sigma_low,
        "best_sigma_high": best.sigma_high,
        "balanced_accuracy": best.balanced_accuracy,
        "auc": best.auc,
        "log_loss": best.log_loss,
        "ece": best.ece,
        "worst_log_loss": max(score.log_loss for score in scores),
    }
