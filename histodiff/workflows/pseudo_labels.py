"""Soft labels for a guide ``adapter``: which artifacts they come from, and that they may be used.

What an adapter may know is what its labels, and images without labels, say: the guide that labels
must have been trained with the same labels, and no patch of a validation or test slide is shown.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact, Kind, Reference
from histodiff.errors import ConfigError
from histodiff.guidance.kinds import load_guide
from histodiff.guidance.labelled import read_labelled
from histodiff.guidance.pseudo_labels import PseudoLabelConfig, PseudoLabelled, soft_labels
from histodiff.latents import LatentStore, Whitening
from histodiff.models.denoiser import Denoiser, LoadedDenoiser
from histodiff.workflows.labels import require_same_labels
from histodiff.workflows.networks import open_denoiser, require_patch_px, require_same_encoder

LATENTS, GUIDE = "kind.pseudo_labels.latents", "kind.pseudo_labels.guide"
"""Keys of the two inputs."""
_KINDS = ("features",)


def pseudo_label_inputs(config: PseudoLabelConfig | None) -> dict[str, Reference]:
    """Full addresses of what soft labels come from, by config key."""
    if config is None:
        return {}
    return {
        LATENTS: config.latents.as_kind(Kind.LATENTS),
        GUIDE: config.guide.as_kind(Kind.GUIDES),
    }


def require_pseudo_labels(
    config: PseudoLabelConfig | None,
    inputs: Mapping[str, Artifact],
    labelled: LatentStore,
    *,
    labels_sha256: str,
) -> None:
    """Checks that soft labels can be given, and may.

    Args:
        config: What they come from; nothing is checked of None.
        inputs: All inputs of the command.
        labelled: The store of the labelled target.
        labels_sha256: The labels that may be known.

    Raises:
        ArtifactError: The latents are of another encoder.
        ConfigError: They are of another size, or of slides that are kept for validation or test;
            or the guide is of another kind, denoiser, or set of labels, or was not calibrated.
    """
    if config is None:
        return
    guide, unlabelled, denoiser = inputs[GUIDE], inputs[LATENTS], inputs["denoiser"]
    require_same_encoder(unlabelled, denoiser)
    store = _store(inputs, labelled)
    require_patch_px(store.patch_px, denoiser, owner=str(unlabelled.reference))
    kind = guide.manifest.config["kind"]["type"]
    if kind not in _KINDS:
        raise ConfigError(
            f"{GUIDE}: {guide.reference} is of kind {kind}; name a guide of kind"
            f" {' or '.join(_KINDS)}"
        )
    if guide.manifest.inputs.get(str(denoiser.reference)) != denoiser.manifest.fingerprint:
        raise ConfigError(
            f"{GUIDE}: {guide.reference} was not trained for {denoiser.reference}; train one for it"
        )
    require_same_labels(labels_sha256, guide, what=GUIDE)
    if tuple(guide.manifest.contents["classes"]) != tuple(labelled.classes):
        raise ConfigError(f"{GUIDE}: {guide.reference} knows other classes; train it on `latents`")
    _require_apart(store, labelled, unlabelled)
    if config.sigma is None:
        _best_sigma(guide)


@dataclass(frozen=True)
class Asked:
    """What soft labels depend on beside the config."""

    inputs: Mapping[str, Artifact]
    labelled: LatentStore
    """The store of the labelled target, as it is divided."""
    denoiser: LoadedDenoiser
    batch: int
    seed: int
    device: str


def pseudo_labelled(config: PseudoLabelConfig, asked: Asked) -> PseudoLabelled:
    """Training latents of the store without labels, with the soft labels that the guide gives.

    Raises:
        ConfigError: The store has none.
    """
    store = _store(asked.inputs, asked.labelled)
    loaded = asked.denoiser
    latents = read_labelled(
        store, store.rows_of_split("train"),
        whitening=Whitening(loaded.whitening_mean, loaded.whitening_scale), classes=None,
        view=loaded.info.view,
    )  # fmt: skip
    if not len(latents):
        raise ConfigError(
            f"{LATENTS}: {asked.inputs[LATENTS].reference} has no patch of split train"
        )
    guide = asked.inputs[GUIDE]

    def opened(snapshot: str) -> Denoiser:
        artifact = asked.inputs["denoiser"]
        return open_denoiser(artifact, device=asked.device, snapshot=snapshot).denoiser

    probability_NK = soft_labels(
        load_guide(guide.path, opened, asked.device), latents,
        sigma=config.sigma or _best_sigma(guide), views=config.views, batch=asked.batch,
        seed=asked.seed, device=asked.device,
    )  # fmt: skip
    return PseudoLabelled(latents, probability_NK, config.share)


def _store(inputs: Mapping[str, Artifact], labelled: LatentStore) -> LatentStore:
    """The latents without labels; where they are the labelled ones', divided as those are."""
    unlabelled = inputs[LATENTS]
    if unlabelled.reference == inputs["latents"].reference:
        return labelled
    return LatentStore.open(unlabelled.path)


def _best_sigma(guide: Artifact) -> float:
    """The middle of the bin in which the guide's log loss on slides held out is least.

    Raises:
        ConfigError: The guide was not calibrated.
    """
    metrics = json.loads((guide.path / "metrics.json").read_bytes())
    calibrated = guide.manifest.config["kind"]["calibration"] is not None
    bins = metrics.get("cross_fitted_by_sigma") or metrics["accuracy_by_sigma"]
    if not calibrated or not bins or "log_loss" not in bins[0]:
        raise ConfigError(
            f"{GUIDE}: {guide.reference} was not calibrated, so nothing says at which noise level"
            " it is best; name kind.pseudo_labels.sigma, or train it with calibration"
        )
    best = min(bins, key=lambda score: float(score["log_loss"]))
    return float(np.sqrt(best["sigma_low"] * best["sigma_high"]))


def _require_apart(unlabelled: LatentStore, labelled: LatentStore, source: Artifact) -> None:
    """Checks that no training slide or patient of the one is held out in the other."""
    shown = unlabelled.rows_of_split("train")
    kept = np.concatenate([labelled.rows_of_split("val"), labelled.rows_of_split("test")])
    for column in ("slide_id", "patient_id"):
        shared = sorted(_names(unlabelled, shown, column) & _names(labelled, kept, column))
        if shared:
            raise ConfigError(
                f"{LATENTS}: {source.reference} shows {column} {', '.join(shared[:3])} in split"
                " train, which the labelled latents keep for validation or test; split both alike"
            )


def _names(store: LatentStore, rows: npt.NDArray[np.int64], column: str) -> set[str]:
    return {str(name) for name in store.rows[column].take(rows).to_pylist() if name}
