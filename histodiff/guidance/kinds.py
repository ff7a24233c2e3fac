"""The kinds of guides: a config and a file format for each, behind ``diffusion.Guide``.

A new kind is a module that has its config, tagged by ``type``, and how it learns; a case in each of
the functions here, and one in ``teaching.py``.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, TypeAlias

from pydantic import Field

from histodiff.diffusion import Preconditioning
from histodiff.errors import ArtifactCorrupt
from histodiff.guidance.adapter import AdapterGuideKind
from histodiff.guidance.adapter_guide import AdapterGuide
from histodiff.guidance.bayes import BayesConfig
from histodiff.guidance.calibration import save_temperatures, stored_temperatures
from histodiff.guidance.classifier_guide import ClassifierGuide
from histodiff.guidance.feature_head import FeatureGuideKind, head_logits
from histodiff.guidance.latent_classifier import (
    USED_ON,
    CleanGuideKind,
    LatentGuideKind,
    clean_logits,
)
from histodiff.guidance.noise import sigma_bins
from histodiff.models.adapter import (
    ADAPTER_MODEL,
    AdaptedDenoiser,
    Adapter,
    load_adapter,
    read_adapter,
    save_adapter,
)
from histodiff.models.denoiser import Denoiser
from histodiff.models.feature_head import (
    MODEL,
    DenoiserFeatures,
    FeatureHead,
    load_feature_head,
    save_feature_head,
)
from histodiff.models.latent_classifier import (
    LatentClassifier,
    load_latent_classifier,
    save_latent_classifier,
)
from histodiff.models.logistic_head import (
    LOGISTIC_MODEL,
    LogisticHead,
    load_logistic_head,
    save_logistic_head,
)
from histodiff.models.weights import DESCRIPTION
from histodiff.storage import StoragePath

GuideKind = Annotated[
    FeatureGuideKind | LatentGuideKind | AdapterGuideKind | CleanGuideKind,
    Field(discriminator="type"),
]
"""Union of the configs of all kinds, told apart by ``type``."""

TrainedKind: TypeAlias = ClassifierGuide | AdapterGuide
OpenDenoiser = Callable[[str], Denoiser]
"""Opens a snapshot of the denoiser that a guide was trained with."""

_SNAPSHOT, _SIGMAS, _BAYES = "snapshot", "sigmas", "bayes"


def evaluation_bins(
    kind: GuideKind, preconditioning: Preconditioning, *, num_bins: int
) -> list[tuple[float, float]]:
    """Bins of the noise levels at which a guide of ``kind`` is at work."""
    return sigma_bins(kind.noise, preconditioning, num_bins=num_bins)


def save_guide(path: StoragePath, guide: TrainedKind, *, snapshot: str) -> None:
    """Writes the guide into the folder ``path``.

    Args:
        path: The folder.
        guide: What is written.
        snapshot: EMA snapshot of the denoiser that it was trained with.
    """
    classes = guide.classes
    match guide.network:
        case LatentClassifier() as classifier:
            assert isinstance(guide, ClassifierGuide)
            extra = {**guide.saved, _SNAPSHOT: snapshot} if guide.saved else {}
            save_latent_classifier(path, classifier, classes=classes, extra=extra)
        case FeatureHead() as head:
            save_feature_head(path, head, classes=classes, snapshot=snapshot)
        case LogisticHead() as regressions:
            save_logistic_head(path, regressions, classes=classes, snapshot=snapshot)
        case Adapter() as adapter:
            assert isinstance(guide, AdapterGuide)
            extra = {_SIGMAS: list(guide.sigmas), _BAYES: guide.bayes.model_dump(mode="json")}
            save_adapter(path, adapter, classes=classes, snapshot=snapshot, extra=extra)
        case _:
            raise AssertionError(guide.network)
    if guide.temperatures is not None:
        save_temperatures(path, guide.temperatures)


def load_guide(path: StoragePath, denoiser: OpenDenoiser, device: str) -> TrainedKind:
    """The guide saved in ``path``, in evaluation mode, frozen.

    Args:
        path: Folder of the guide.
        denoiser: Opens a snapshot of the denoiser it was trained with, for guides that read its
            features or adapt it; not to be used for anything else.
        device: Where it runs.

    Raises:
        ArtifactNotFound: There is none.
        ArtifactCorrupt: It is damaged.
    """
    load = {
        MODEL: _load_perceptron,
        LOGISTIC_MODEL: _load_regressions,
        ADAPTER_MODEL: _load_adapter,
    }.get(_model_in(path) or "", _load_latent_classifier)
    return replace(load(path, denoiser, device), temperatures=stored_temperatures(path))


def _load_perceptron(path: StoragePath, denoiser: OpenDenoiser, device: str) -> TrainedKind:
    read = load_feature_head(path, device)
    features = DenoiserFeatures(denoiser(read.snapshot), read.head.config.layers)
    return ClassifierGuide(read.head, head_logits(read.head, features), read.classes)


def _load_regressions(path: StoragePath, denoiser: OpenDenoiser, device: str) -> TrainedKind:
    read = load_logistic_head(path, device)
    features = DenoiserFeatures(denoiser(read.snapshot), read.head.layers)
    return ClassifierGuide(read.head, head_logits(read.head, features), read.classes)


def _load_latent_classifier(path: StoragePath, denoiser: OpenDenoiser, device: str) -> TrainedKind:
    read = load_latent_classifier(path, device)
    used_on = read.description.get(USED_ON)
    if used_on is None:
        return ClassifierGuide(read.classifier, read.classifier, read.classes)
    saved = {USED_ON: used_on}
    if used_on == "noisy":
        return ClassifierGuide(read.classifier, read.classifier, read.classes, saved=saved)
    shown_by = denoiser(str(read.description[_SNAPSHOT]))
    logits = clean_logits(read.classifier, shown_by, used_on)
    return ClassifierGuide(read.classifier, logits, read.classes, saved=saved)


def _load_adapter(path: StoragePath, denoiser: OpenDenoiser, device: str) -> TrainedKind:
    stored = read_adapter(path)
    adapted = denoiser(stored.snapshot)
    adapter = load_adapter(path, adapted, device)
    scales = adapted.preconditioning
    try:
        low, high = (float(sigma) for sigma in stored.description[_SIGMAS])
        bayes = BayesConfig.model_validate(stored.description[_BAYES])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{path}: its description is not a guide's: {error}") from error
    return AdapterGuide(
        adapter, AdaptedDenoiser(adapted, adapter), stored.classes, sigmas=(low, high),
        known=(scales.sigma_min, scales.sigma_max), bayes=bayes,
    )  # fmt: skip


def _model_in(path: StoragePath) -> str | None:
    """Which model the description in a folder names; None where there is none to read."""
    try:
        found = json.loads((path / DESCRIPTION).read_bytes()).get("model")
    except (OSError, ValueError):
        return None  # the loader says what is wrong
    return None if found is None else str(found)
