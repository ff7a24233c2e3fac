"""``classify``: what few labels give, with or without images that join them.

The control is the same command with nothing added. Every arm takes the same number of steps. The
last step's model is scored on slides that no training image comes from.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from histodiff.artifacts import Artifact, Draft, begin, open_artifact
from histodiff.classification.images import Pixels, labelled_patches, num_added
from histodiff.classification.learning_set import LearningSet
from histodiff.classification.pseudo_labels import tempered
from histodiff.cluster.site import Site
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.models.weights import DESCRIPTION
from histodiff.runtime.threads import use_threads
from histodiff.storage import StoragePath
from histodiff.training import CHECKPOINTS
from histodiff.workflows.classify.added import (
    Training,
    check_added,
    counts_of,
    learned_from,
    training_images,
    write_added,
)
from histodiff.workflows.classify.additions import AddedSamples
from histodiff.workflows.classify.calibration import cross_fitted_temperature
from histodiff.workflows.classify.candidates import candidates
from histodiff.workflows.classify.config import ClassifyConfig
from histodiff.workflows.classify.method_kinds import (
    AUTOENCODER,
    DENOISER,
    ENCODER,
    UNLABELLED,
    DenoiserFeaturesMethod,
    SelfSupervisedMethod,
)
from histodiff.workflows.classify.methods import Fitted, Interim, fitted
from histodiff.workflows.classify.opened import Predictor, Probabilities, save_temperature
from histodiff.workflows.classify.scoring import (
    contents_of,
    failures,
    interim_metrics,
    metrics_of,
    scored_splits,
    write_metrics,
    write_predictions,
)
from histodiff.workflows.classify.unseen import require_unseen
from histodiff.workflows.labels import (
    LABELS_SHA256,
    LabelledRows,
    labelled_rows,
    opened_index,
    require_scorable,
)
from histodiff.workflows.networks import (
    require_patch_px,
    require_same_encoder,
    require_snapshot,
)
from histodiff.workflows.tables import write_losses

_FOLDS = "scratch"


def classify(config: ClassifyConfig, site: Site) -> Artifact:
    """Trains and scores the classifier that ``config`` describes.

    Raises:
        ConfigError: Splits share slides or patients, or inputs used other labels.
        ArtifactError: Denoiser and autoencoder have different encoders.
    """
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    index = opened_index(inputs["patches"], dev_split=config.dev_split, seed=config.seed)
    labels = _checked_labels(config, index, inputs, root)
    draft = begin(root, config, inputs=inputs, inventory={"device_class": site.device})
    if draft.finished is not None:
        return draft.finished
    with draft:
        use_threads(config.threads)
        training = training_images(
            config, index, labels, inputs, root=root, device=site.device
        )  # fmt: skip
        found = _fitted(config, index, inputs, training, draft, site.device)
        splits = scored_splits(config, index, found.predict)
        metrics = {**metrics_of(config, index, splits), **counts_of(index, training)}
        found.save(draft.path)
        write_losses(draft.path, found.records)
        write_added(draft.path, index, training)
        write_predictions(draft.path, index, splits)
        write_metrics(draft.path, metrics)
        synthetic = isinstance(config.addition, AddedSamples)
        return draft.finish(
            {
                "method": config.method.type,
                "real": len(training.real.images),
                "synthetic": training.num_added if synthetic else 0,
                "added": training.num_added,
                **contents_of(metrics),
                LABELS_SHA256: labels.sha256,
            },
            failed=(*training.failed, *found.failed, *failures(splits)),
        )


def estimate(config: ClassifyConfig, site: Site) -> dict[str, float | int | str]:
    """Real training images, added ones at most, patches that are scored, and steps."""
    patches = open_artifact(site.storage_root, config.inputs()["patches"])
    index = opened_index(patches, dev_split=config.dev_split, seed=config.seed)
    real = len(labelled_rows(index.patches, budget=config.budget, seed=config.seed).rows)
    return {
        "real": real,
        "synthetic": num_added(config.synthetic_ratio, real),
        **{
            f"{split}_patches": len(labelled_patches(index, split=split)) for split in config.splits
        },
        **({} if config.training is None else {"steps": config.training.num_steps}),
    }


def _fitted(
    config: ClassifyConfig,
    index: PatchIndex,
    inputs: Mapping[str, Artifact],
    training: Training,
    draft: Draft,
    device: str,
) -> Fitted:
    """The classifier, with a temperature where one is asked for."""

    def fit(
        images: LearningSet, checkpoints: str, run: str, interim: Interim | None = None
    ) -> Fitted:
        return fitted(
            config, images, inputs, index=index, checkpoints=draft.path / checkpoints,
            without_labels=draft.path / CHECKPOINTS, run=run, device=device, interim=interim,
        )  # fmt: skip

    midway = partial(interim_metrics, index) if "val" in config.splits else None
    found = fit(learned_from(config, index, training), CHECKPOINTS, "classify", midway)
    if config.calibration is None:
        return found

    def without_part(images: LearningSet, number: int) -> Predictor:
        run = f"classify without part {number + 1}"
        return fit(images, f"{_FOLDS}/fold-{number}", run).predict

    temperature = cross_fitted_temperature(
        without_part, index, training.real, num_folds=config.calibration.folds, seed=config.seed
    )
    save_temperature(draft.path, temperature)
    return replace(found, predict=_cooled(found.predict, temperature))


def _cooled(predict: Predictor, temperature: float) -> Predictor:
    def cooled(pixels_NHWC: Pixels) -> Probabilities:
        return tempered(predict(pixels_NHWC), temperature)

    return cooled


def _checked_labels(
    config: ClassifyConfig, index: PatchIndex, inputs: Mapping[str, Artifact], root: StoragePath
) -> LabelledRows:
    """The labelled subset, after every check that needs no pixels."""
    for split in config.splits:
        require_scorable(index, source=str(config.patches), split=split)
    if config.positive is not None and config.positive not in index.classes:
        raise ConfigError(
            f"positive '{config.positive}': is none of {', '.join(index.classes)}, the classes of"
            f" {config.patches}"
        )
    if isinstance(config.method, DenoiserFeaturesMethod):
        require_same_encoder(inputs[DENOISER], inputs[AUTOENCODER])
        require_snapshot(inputs[DENOISER], config.method.snapshot)
        require_patch_px(index.patch_px, inputs[DENOISER], owner=str(config.patches))
    if ENCODER in inputs:
        _require_encoder(inputs[ENCODER], index)
    elif isinstance(config.method, SelfSupervisedMethod):
        candidates(
            index, np.zeros(0, np.int64), inputs.get(UNLABELLED), limit=None, seed=config.seed,
            field=UNLABELLED,
        )  # fmt: skip
    require_unseen(root, inputs["patches"], index, inputs)
    labels = labelled_rows(index.patches, budget=config.budget, seed=config.seed)
    check_added(config, index, labels, inputs)
    return labels


def _require_encoder(artifact: Artifact, index: PatchIndex) -> None:
    """Checks that a network has seen no label, and fits the patches.

    Raises:
        ConfigError: It was trained otherwise, or tells another number of classes apart.
    """
    method = artifact.manifest.config["method"]["type"]
    if method != "self_supervised":
        raise ConfigError(
            f"{ENCODER}: {artifact.reference} is of method {method}, whose network knows labels;"
            " name one of method self_supervised"
        )
    known = json.loads((artifact.path / DESCRIPTION).read_bytes())["classes"]
    if known != list(index.classes):
        raise ConfigError(
            f"{ENCODER}: {artifact.reference} tells {', '.join(known)} apart, the patches are of"
            f" {', '.join(index.classes)}; train one on these patches"
        )
