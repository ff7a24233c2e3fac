"""``classify``: a timm backbone on the real labelled subset, with or without selected samples.

The control is the same command without a selection. Every arm takes the same number of steps. The
last step's model is scored on slides that no training image comes from.
"""

from functools import partial

from histodiff.artifacts import Artifact, begin, open_artifact
from histodiff.classification.images import labelled_patches, num_added
from histodiff.classification.training import predicted_probability, trained_classifier
from histodiff.cluster.site import Site
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.models.classifier import save_classifier
from histodiff.runtime.threads import use_threads
from histodiff.training import CHECKPOINTS
from histodiff.workflows.classify.added import counts_of, learned_from, training_images
from histodiff.workflows.classify.config import ClassifyConfig
from histodiff.workflows.classify.scoring import (
    contents_of,
    failures,
    metrics_of,
    scored_splits,
    write_metrics,
    write_predictions,
)
from histodiff.workflows.labels import (
    LABELS_SHA256,
    LabelledRows,
    labelled_rows,
    opened_index,
    require_same_labels,
    require_scorable,
)
from histodiff.workflows.tables import write_losses


def classify(config: ClassifyConfig, site: Site) -> Artifact:
    """Trains and scores the classifier that ``config`` describes.

    Raises:
        ConfigError: Splits share slides or patients, or inputs used other labels.
    """
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    index = opened_index(inputs["patches"], dev_split=config.dev_split, seed=config.seed)
    labels = _checked_labels(config, index, inputs)
    draft = begin(root, config, inputs=inputs, inventory={"device_class": site.device})
    if draft.finished is not None:
        return draft.finished
    with draft:
        use_threads(config.threads)
        training = training_images(config, index, labels, inputs)
        trained = trained_classifier(
            learned_from(config, index, training), backbone=config.backbone,
            training=config.training,
            num_classes=len(index.classes), seed=config.seed, device=site.device,
            checkpoints=draft.path / CHECKPOINTS, run="classify",
        )  # fmt: skip
        splits = scored_splits(
            config, index,
            partial(
                predicted_probability, trained.classifier, batch=config.eval_batch,
                device=site.device,
            ),
        )  # fmt: skip
        metrics = {
            **metrics_of(config, index, splits), **counts_of(config, index, training)
        }  # fmt: skip
        save_classifier(draft.path, trained.classifier, classes=index.classes)
        write_losses(draft.path, trained.records)
        write_predictions(draft.path, index, splits)
        write_metrics(draft.path, metrics)
        return draft.finish(
            {
                "real": len(training.real.images),
                "synthetic": training.num_synthetic,
                **contents_of(metrics),
                LABELS_SHA256: labels.sha256,
            },
            failed=(*training.real.failed, *failures(splits)),
        )


def estimate(config: ClassifyConfig, site: Site) -> dict[str, float | int | str]:
    """Real training images, synthetic ones at most, patches that are scored, and steps."""
    patches = open_artifact(site.storage_root, config.inputs()["patches"])
    index = opened_index(patches, dev_split=config.dev_split, seed=config.seed)
    real = len(labelled_rows(index.patches, budget=config.budget, seed=config.seed).rows)
    return {
        "real": real,
        "synthetic": num_added(config.synthetic_ratio, real),
        **{
            f"{split}_patches": len(labelled_patches(index, split=split)) for split in config.splits
        },
        "steps": config.training.num_steps,
    }


def _checked_labels(
    config: ClassifyConfig, index: PatchIndex, inputs: dict[str, Artifact]
) -> LabelledRows:
    """The labelled subset, after every check that needs no pixels."""
    for split in config.splits:
        require_scorable(index, source=str(config.patches), split=split)
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
