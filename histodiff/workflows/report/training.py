"""The section of the report on pre-training: loss over images seen, and by noise level."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from histodiff.artifacts import Artifact
from histodiff.storage import list_names
from histodiff.workflows.report.pictures import Curve, Picture, curves_figure
from histodiff.workflows.report.sections import table_of

_METRICS, _VALIDATION = "metrics.parquet", "validation.parquet"
_PREVIEWS = "previews"
_SHOWN_TIMES = 4


@dataclass(frozen=True)
class Pretraining:
    """How the denoiser was trained, and its loss."""

    name: str
    facts: Mapping[str, Any]
    sentence: str
    pictures: Sequence[Picture]


def pretraining(artifact: Artifact) -> Pretraining:
    """The pre-training section of one denoiser."""
    training = table_of(artifact.path / _METRICS)
    validation: dict[str, list[Any]] = {"images_seen": [], "sigma": [], "loss": []}
    if _VALIDATION in list_names(artifact.path):
        validation = table_of(artifact.path / _VALIDATION)
    by_time = _by_time(validation)
    mean = {seen: sum(bins.values()) / len(bins) for seen, bins in by_time.items()}
    curves = [Curve("training", training["images_seen"], training["loss"])]
    if mean:
        curves.append(Curve("validation, mean over noise levels", list(mean), list(mean.values())))
    pictures = [
        curves_figure(
            curves, x="images seen", y="loss",
            alt=f"Training loss from {training['loss'][0]:.3f} to {training['loss'][-1]:.3f}.",
            caption="Loss over images seen. Validation is on slides that training never sees.",
        )
    ]  # fmt: skip
    if by_time:
        pictures.append(_by_sigma(by_time))
    measured = _measured_previews(artifact)
    if measured:
        pictures.append(_quality_curve(measured))
    facts = {
        key: value
        for key, value in artifact.manifest.contents.items()
        if isinstance(value, int | float)
    }
    return Pretraining(str(artifact.reference), facts, _sentence(training, mean), pictures)


def _measured_previews(artifact: Artifact) -> list[Mapping[str, Any]]:
    """What was measured at preview times, in order; empty where nothing was."""
    folder = artifact.path / _PREVIEWS
    names = sorted(name for name in list_names(folder) if name.endswith(".json"))
    return [json.loads((folder / name).read_bytes()) for name in names]


def _quality_curve(measured: Sequence[Mapping[str, Any]]) -> Picture:
    last = measured[-1]
    seen = [one["images_seen"] for one in measured]
    distances = [float(one["kernel_distance"]) for one in measured]
    return curves_figure(
        [Curve("samples", seen, distances)],
        x="images seen", y="kernel distance",
        alt=f"Kernel distance from {distances[0]:.3g} to {distances[-1]:.3g}.",
        caption=f"Kernel distance of {last['num_images']} samples to {last['num_real']} decoded"
        f" validation patches, in features of {last['extractor']}.",
    )  # fmt: skip


def _by_time(validation: Mapping[str, Sequence[Any]]) -> dict[int, dict[float, float]]:
    """Images seen -> noise level -> validation loss."""
    found: defaultdict[int, dict[float, float]] = defaultdict(dict)
    for seen, sigma, loss in zip(
        validation["images_seen"], validation["sigma"], validation["loss"], strict=True
    ):
        found[seen][sigma] = loss
    return dict(sorted(found.items()))


def _by_sigma(by_time: Mapping[int, Mapping[float, float]]) -> Picture:
    times = list(by_time)
    last = len(times) - 1
    shown = sorted({round(place * last / (_SHOWN_TIMES - 1)) for place in range(_SHOWN_TIMES)})
    curves = [
        Curve(f"{seen:,} images", list(by_time[seen]), list(by_time[seen].values()))
        for seen in (times[place] for place in shown)
    ]
    return curves_figure(
        curves, x="noise level sigma", y="validation loss", log="xy",
        alt="Validation loss by noise level, at several times of the training.",
        caption="Validation loss by noise level, early to late.",
    )  # fmt: skip


def _sentence(training: Mapping[str, Sequence[float]], mean: Mapping[int, float]) -> str:
    """How the loss went, in words."""
    text = (
        f"Over {training['images_seen'][-1]:,} images the training loss went from"
        f" {training['loss'][0]:.3f} to {training['loss'][-1]:.3f}."
    )
    if not mean:
        return f"{text} There was no validation, so memorisation would not show here."
    losses = list(mean.values())
    best = min(losses)
    if losses[-1] > 1.05 * best:
        return (
            f"{text} The validation loss rose from {best:.3f} at its best to {losses[-1]:.3f}:"
            " so it does when a denoiser memorises its training patches."
        )
    return f"{text} The validation loss ended at {losses[-1]:.3f}, its lowest was {best:.3f}."
