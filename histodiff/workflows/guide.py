"""``guide``: a few labelled latents -> a noise-aware latent classifier that steers sampling.

Inputs: a labelled LatentStore and a Denoiser on the same encoder; latents are whitened as the
denoiser's are. Only the labelled subset of the training split is learned from; accuracy by noise
level is reported on the validation split.
"""

import json
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from histodiff.artifacts import Artifact, CommandConfig, Kind, Reference, begin, open_artifact
from histodiff.cluster.site import Site
from histodiff.config import Location
from histodiff.data_prep.index.splits import LabelBudget, assert_disjoint
from histodiff.errors import ConfigError
from histodiff.guidance.evaluate import BinScore, accuracy_by_sigma
from histodiff.guidance.latents import LabelledLatents, read_labelled
from histodiff.guidance.noise import sigma_bins
from histodiff.guidance.training import GuideTraining, guide_loss
from histodiff.latents import LatentStore, Whitening
from histodiff.models.denoiser import LoadedDenoiser
from histodiff.models.guide import LatentClassifier, LatentClassifierConfig, save_guide
from histodiff.runtime import derived_seed
from histodiff.storage import StoragePath, write_bytes
from histodiff.training.fit import FitRecord, fit
from histodiff.workflows.labels import LABELS_SHA256, LabelledRows, labelled_rows
from histodiff.workflows.networks import (
    open_denoiser,
    require_patch_px,
    require_same_encoder,
)
from histodiff.workflows.tables import write_losses


class GuideConfig(CommandConfig):
    """Config of ``guide``."""

    kind: ClassVar[Kind] = Kind.GUIDES

    latents: Annotated[Reference, Location()]
    """Labelled LatentStore."""
    denoiser: Annotated[Reference, Location()]
    """Denoiser to be steered; gives whitening and noise levels."""
    budget: LabelBudget
    """How many labels may be used."""
    classifier: LatentClassifierConfig
    """The network."""
    training: GuideTraining
    """How it is trained."""
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
        }


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
    store = LatentStore.open(inputs["latents"].path)
    require_patch_px(store.patch_px, inputs["denoiser"], owner=str(inputs["latents"].reference))
    labels = labels_of_store(store, config)
    draft = begin(root, config, inputs=inputs, inventory={"device_class": site.device})
    if draft.finished is not None:
        return draft.finished
    with draft:
        torch.set_num_threads(config.threads)
        denoiser = open_denoiser(inputs["denoiser"], device=site.device)
        whitening = Whitening(denoiser.whitening_mean, denoiser.whitening_std)
        read = partial(
            read_labelled,
            store,
            whitening=whitening,
            classes=store.classes,
            view=denoiser.info.view,  # the guide sees of a posterior what the denoiser saw
        )
        latents = read(labels.rows)
        classifier = _first_classifier(config, store, site.device)
        records = _trained(classifier, latents, config, denoiser, draft.path, site.device)
        held_out = store.rows_of_split("val")
        held_out = held_out[_is_labelled(store, held_out)]
        scores = _scores(classifier.eval(), read(held_out), config, denoiser, site.device)
        save_guide(draft.path, classifier, classes=store.classes)
        write_losses(draft.path, records)
        write_bytes(draft.path / "metrics.json", _metrics(labels, scores))
        return draft.finish(
            {
                "classes": list(store.classes),
                "labelled_latents": len(latents),
                "val_latents": len(held_out),
                "final_loss": records[-1].loss,
                "encoder_sha256": store.encoder_sha256,
                LABELS_SHA256: labels.sha256,
            }
        )


def estimate(config: GuideConfig, site: Site) -> dict[str, float | int | str]:
    """Labelled latents and training steps."""
    latents = open_artifact(site.storage_root, config.inputs()["latents"])
    labels = labels_of_store(LatentStore.open(latents.path), config)
    return {"labelled_latents": len(labels.rows), "steps": config.training.fit.steps}


def labels_of_store(store: LatentStore, config: GuideConfig) -> LabelledRows:
    """The labelled subset of the store, checked.

    Raises:
        ConfigError: The store has fewer than two classes, or its splits share slides.
    """
    if len(store.classes) < 2:
        raise ConfigError(
            f"latents {config.latents}: a guide needs two classes, found {list(store.classes)};"
            " encode a labelled PatchIndex"
        )
    assert_disjoint(store.rows)
    patches = np.asarray(store.rows["patch"], np.int64)
    labels = labelled_rows(store.rows, budget=config.budget, seed=config.seed, patches=patches)
    missing = sorted(set(store.classes) - set(labels.counts))
    if missing:
        raise ConfigError(f"no labelled training latent of {', '.join(missing)}; add slides")
    return labels


def _is_labelled(store: LatentStore, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    known = [label is not None for label in store.rows["label"].take(rows).to_pylist()]
    return np.array(known, bool)


def _first_classifier(config: GuideConfig, store: LatentStore, device: str) -> LatentClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, "guide-weights"))
        classifier = LatentClassifier(
            config.classifier,
            latent_channels=store.latent_channels,
            num_classes=len(store.classes),
        )
    return classifier.to(device).train()


def _trained(
    classifier: LatentClassifier,
    latents: LabelledLatents,
    config: GuideConfig,
    denoiser: LoadedDenoiser,
    path: StoragePath,
    device: str,
) -> list[FitRecord]:
    loss = guide_loss(
        classifier, latents, training=config.training,
        preconditioning=denoiser.denoiser.preconditioning, seed=config.seed, device=device,
    )  # fmt: skip
    return fit(
        classifier, loss=loss, config=config.training.fit, seed=config.seed,
        checkpoint=path / "checkpoints", description="guide",
    )  # fmt: skip


def _scores(
    classifier: LatentClassifier,
    held_out: LabelledLatents,
    config: GuideConfig,
    denoiser: LoadedDenoiser,
    device: str,
) -> list[BinScore]:
    """Scores by noise level; none without labelled validation latents."""
    if not len(held_out):
        return []
    bins = sigma_bins(
        config.training.noise, denoiser.denoiser.preconditioning, num_bins=config.num_bins
    )
    return accuracy_by_sigma(
        classifier, held_out, bins=bins, batch=config.training.batch, seed=config.seed,
        device=device,
    )  # fmt: skip


def _metrics(labels: LabelledRows, scores: list[BinScore]) -> bytes:
    record = {
        "labelled": dict(labels.counts),
        "split": "val",
        "accuracy_by_sigma": [asdict(score) for score in scores],
    }
    return (json.dumps(record, indent=2) + "\n").encode()
