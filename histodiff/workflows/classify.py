"""``classify``: a timm backbone on the real labelled subset, with or without selected samples.

The control is the same command without a selection. Every arm takes the same number of steps. The
last step's model is tested on slides that no training image comes from.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from histodiff.artifacts import Artifact, CommandConfig, Kind, Reference, begin, open_artifact
from histodiff.classification.images import (
    Images,
    RealImages,
    joined,
    labelled_patches,
    num_added,
    read_real,
    read_selected,
)
from histodiff.classification.training import (
    ClassifierTraining,
    predicted_probability,
    trained_classifier,
)
from histodiff.cluster.site import Site
from histodiff.config import Location
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.splits import LabelBudget
from histodiff.errors import ConfigError
from histodiff.evaluation.metrics import (
    Scored,
    bootstrap_intervals,
    metric_values,
    positive_class,
    slide_level,
)
from histodiff.models.classifier import Classifier, ClassifierConfig, save_classifier
from histodiff.runtime import generator_for
from histodiff.runtime.threads import use_threads
from histodiff.samples import SampleStore, Selection
from histodiff.storage import StoragePath, write_bytes
from histodiff.training import CHECKPOINTS
from histodiff.workflows.labels import (
    LABELS_SHA256,
    LabelledRows,
    labelled_rows,
    require_same_labels,
    require_scorable,
)
from histodiff.workflows.tables import write_losses, write_table


class ClassifyConfig(CommandConfig):
    """Config of ``classify``."""

    artifact_kind: ClassVar[Kind] = Kind.CLASSIFIERS

    patches: Annotated[Reference, Location()]
    """Labelled PatchIndex of the target."""
    budget: LabelBudget
    """How many real labels may be used."""
    samples: Annotated[Reference | None, Location()] = None
    """SampleStore that the selection is of; null without a selection."""
    selection: Annotated[Reference | None, Location()] = None
    """Selection whose samples join the training; null is the control."""
    synthetic_ratio: float = Field(default=0.0, ge=0)
    """Samples added, as a multiple of the number of real images."""
    backbone: ClassifierConfig
    """The network."""
    training: ClassifierTraining
    """How it is trained."""
    positive: str | None = None
    """Class of sensitivity and specificity; by default the last of two, else the classes' mean."""
    bootstrap: int = Field(default=1000, ge=1)
    """Replicates of the bootstrap over test slides."""
    eval_batch: int = Field(default=64, ge=1)
    """Images per forward pass of the test."""
    threads: int = Field(ge=1)
    """Torch threads; part of the identity, as results on a CPU depend on it."""
    seed: int
    """Decides the labelled subset, the first weights, and every draw."""

    @model_validator(mode="after")
    def _selection_is_whole(self) -> "ClassifyConfig":
        given = [self.selection is not None, self.samples is not None, self.synthetic_ratio > 0]
        if any(given) and not all(given):
            raise ValueError(
                "give `selection`, `samples` and a `synthetic_ratio` above 0 together, or none of"
                " them for the control on real images"
            )
        return self

    def inputs(self) -> dict[str, Reference]:
        found = {"patches": self.patches.as_kind(Kind.PATCHES)}
        if self.samples is not None and self.selection is not None:
            found["samples"] = self.samples.as_kind(Kind.SAMPLES)
            found["selection"] = self.selection.as_kind(Kind.SELECTIONS)
        return found


@dataclass(frozen=True)
class Training:
    """Images that are learned from, and how many of them are synthetic."""

    real: RealImages
    synthetic: Images | None

    @property
    def images(self) -> Images:
        """Real images, then synthetic ones."""
        return (
            self.real.images if self.synthetic is None else joined(self.real.images, self.synthetic)
        )

    @property
    def num_synthetic(self) -> int:
        """Number of synthetic images."""
        return 0 if self.synthetic is None else len(self.synthetic)


def classify(config: ClassifyConfig, site: Site) -> Artifact:
    """Trains and tests the classifier that ``config`` describes.

    Raises:
        ConfigError: Training and test share slides or patients, or inputs used other labels.
    """
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    index = PatchIndex.open(inputs["patches"].path)
    labels = _checked_labels(config, index, inputs)
    draft = begin(root, config, inputs=inputs, inventory={"device_class": site.device})
    if draft.finished is not None:
        return draft.finished
    with draft:
        use_threads(config.threads)
        training = _training_images(config, index, labels, inputs)
        trained = trained_classifier(
            training.images, backbone=config.backbone, training=config.training,
            num_classes=len(index.classes), seed=config.seed, device=site.device,
            checkpoints=draft.path / CHECKPOINTS, run="classify",
        )  # fmt: skip
        test = read_real(index, labelled_patches(index, split="test"), classes=index.classes)
        scored = _scored(config, index, trained.classifier, test, site.device)
        metrics = _metrics(config, index, scored, training)
        save_classifier(draft.path, trained.classifier, classes=index.classes)
        write_losses(draft.path, trained.records)
        _write_predictions(draft.path, index, test, scored)
        write_bytes(draft.path / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
        return draft.finish(
            {
                "real": len(training.real.images),
                "synthetic": training.num_synthetic,
                "test_patches": len(test.images),
                "test_slides": len(set(scored.slide_N)),
                **{
                    name: metrics["patch"][name]
                    for name in ("accuracy", "balanced_accuracy", "auc")
                },
                LABELS_SHA256: labels.sha256,
            },
            failed=(*training.real.failed, *test.failed),
        )


def estimate(config: ClassifyConfig, site: Site) -> dict[str, float | int | str]:
    """Real training images, synthetic ones at most, test patches, and steps."""
    index = PatchIndex.open(open_artifact(site.storage_root, config.inputs()["patches"]).path)
    real = len(labelled_rows(index.patches, budget=config.budget, seed=config.seed).rows)
    return {
        "real": real,
        "synthetic": num_added(config.synthetic_ratio, real),
        "test_patches": len(labelled_patches(index, split="test")),
        "steps": config.training.num_steps,
    }


def _checked_labels(
    config: ClassifyConfig, index: PatchIndex, inputs: dict[str, Artifact]
) -> LabelledRows:
    """The labelled subset, after every check that needs no pixels."""
    require_scorable(index, source=str(config.patches), split="test")
    if config.positive is not None and config.positive not in index.classes:
        raise ConfigError(
            f"positive '{config.positive}': is none of {', '.join(index.classes)}, the classes of"
            f" {config.patches}"
        )
    labels = labelled_rows(index.patches, budget=config.budget, seed=config.seed)
    if "selection" in inputs:
        selection, samples = inputs["selection"], inputs["samples"]
        require_same_labels(labels.sha256, selection, what="selection")
        if selection.manifest.inputs.get(str(samples.reference)) != samples.manifest.fingerprint:
            raise ConfigError(
                f"selection {selection.reference} is not of samples {samples.reference}; name the"
                " samples it was made from"
            )
    return labels


def _training_images(
    config: ClassifyConfig, index: PatchIndex, labels: LabelledRows, inputs: dict[str, Artifact]
) -> Training:
    real = read_real(index, labels.rows, classes=index.classes)
    if "selection" not in inputs:
        return Training(real, None)
    synthetic = read_selected(
        SampleStore.open(inputs["samples"].path),
        Selection.open(inputs["selection"].path),
        count=num_added(config.synthetic_ratio, len(labels.rows)),
        classes=index.classes,
        patch_px=index.patch_px,
    )
    return Training(real, synthetic)


def _scored(
    config: ClassifyConfig, index: PatchIndex, classifier: Classifier, test: RealImages, device: str
) -> Scored:
    probability_NK = predicted_probability(
        classifier, test.images.pixels_NHWC, batch=config.eval_batch, device=device
    )
    slides = index.patches["slide_id"].take(test.patches_N).to_pylist()
    return Scored(probability_NK, test.images.target_N, tuple(slides))


def _metrics(
    config: ClassifyConfig, index: PatchIndex, scored: Scored, training: Training
) -> dict[str, Any]:
    """Values and 95 % intervals per patch and per slide, and what was trained on."""
    positive = positive_class(index.classes, config.positive)
    by_slide = slide_level(scored)
    rng = generator_for(config.seed, "bootstrap")
    synthetic = np.zeros(0, np.int64) if training.synthetic is None else training.synthetic.target_N
    return {
        "patch": metric_values(scored, positive=positive),
        "patch_interval": bootstrap_intervals(
            scored, positive=positive, replicates=config.bootstrap, rng=rng
        ),
        "slide": None if by_slide is None else metric_values(by_slide, positive=positive),
        "slide_interval": None if by_slide is None else bootstrap_intervals(
            by_slide, positive=positive, replicates=config.bootstrap, rng=rng
        ),
        "positive": None if positive is None else index.classes[positive],
        "classes": list(index.classes),
        "real": _counts(training.real.images.target_N, index.classes),
        "synthetic": _counts(synthetic, index.classes),
        "synthetic_wanted": num_added(config.synthetic_ratio, len(training.real.images)),
        "test_patches": len(scored.target_N),
        "test_slides": len(set(scored.slide_N)),
    }  # fmt: skip


def _counts(target_N: np.ndarray[Any, Any], classes: tuple[str, ...]) -> dict[str, int]:
    return {label: int((target_N == number).sum()) for number, label in enumerate(classes)}


def _write_predictions(
    path: StoragePath, index: PatchIndex, test: RealImages, scored: Scored
) -> None:
    rows = index.patches.take(test.patches_N)
    probability = {
        f"probability.{label}": scored.probability_NK[:, number]
        for number, label in enumerate(index.classes)
    }
    write_table(
        path / "predictions.parquet",
        {
            "patch": test.patches_N,
            "slide_id": rows["slide_id"],
            "label": rows["label"],
            "predicted": [index.classes[k] for k in scored.probability_NK.argmax(axis=1)],
            **probability,
        },
    )
