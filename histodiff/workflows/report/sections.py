"""The sections of the report that show what artifacts hold: cohort, networks, samples, selection.

Every function reads finished artifacts and returns a frozen record: numbers for the JSON, pictures
for the page. Which patches and samples are shown is decided by order and seed, never by eye.
"""

import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from histodiff.artifacts import Artifact, Kind, open_artifact
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.evaluation.reconstruction import OWN_PICTURE, target_picture
from histodiff.samples import SampleStore, Selection
from histodiff.storage import StoragePath, list_names
from histodiff.workflows.report.comparisons import setting_text
from histodiff.workflows.report.equivariance import advice_on_symmetries
from histodiff.workflows.report.pictures import (
    Picture,
    stored_picture,
)
from histodiff.workflows.report.samples import (
    SampleRow,
    first_of_each_setting,
    input_of,
    sample_row,
    spread,
)
from histodiff.workflows.sweep.trial_table import TrialRow

_MAX_OVERLAYS = 6
_MAX_SLIDES = 40
_JUDGING = ("centroid", "all_of")
"""Rules of selections that look at the samples."""


@dataclass(frozen=True)
class Cohort:
    """One PatchIndex: its counts, its slides, its overlay pictures."""

    name: str
    counts: Mapping[str, Any]
    by_status: Mapping[str, int]
    slides: Sequence[Mapping[str, Any]]
    slides_left_out: int
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Reconstruction:
    """How well the autoencoder keeps what it is given, on patches it was not trained on."""

    name: str
    metrics: Mapping[str, float]
    targets: Mapping[str, Mapping[str, float]]
    """The same on validation patches of targets, by reference."""
    pictures: Sequence[Picture]
    equivariance: Mapping[str, Any] | None
    """What the autoencoder does to flipped and turned patches; None where it was not measured."""
    advice: str
    """What that means for training."""


@dataclass(frozen=True)
class SelectionShown:
    """What one selection accepted and rejected, by class."""

    name: str
    settings: str
    reasons: Mapping[str, Mapping[str, int]]
    accepted: int
    total: int
    rows: Sequence[tuple[str, Sequence[SampleRow]]]


def cohort(artifact: Artifact) -> Cohort:
    """The cohort section of one PatchIndex."""
    index = PatchIndex.open(artifact.path)
    rows = index.slides.to_pylist()
    left_out_first = sorted(rows, key=lambda row: (row["status"] == "ok", row["slide_id"]))
    names = [name for name in list_names(artifact.path / "overlays") if name.endswith(".png")]
    return Cohort(
        name=str(artifact.reference),
        counts=artifact.manifest.contents,
        by_status=dict(sorted(Counter(row["status"] for row in rows).items())),
        slides=left_out_first[:_MAX_SLIDES],
        slides_left_out=max(0, len(rows) - _MAX_SLIDES),
        pictures=[
            stored_picture(
                artifact.path / "overlays" / name,
                alt=f"{_overlay_of(name)} with the patches that are used.",
                caption=_overlay_of(name),
                max_px=640,
            )
            for name in spread(names, _MAX_OVERLAYS)
        ],
    )


def reconstruction(artifact: Artifact) -> Reconstruction:
    """The reconstruction section of one autoencoder."""
    contents = artifact.manifest.contents
    names = ("psnr_db", "ssim", "perceptual_distance")
    metrics = {name: float(contents[name]) for name in names if name in contents}
    targets = contents.get("targets", {})
    captions = {OWN_PICTURE: "Held-out patches"} | {
        target_picture(name): f"Held-out patches of the target {name}" for name in targets
    }
    present = set(list_names(artifact.path))
    pictures = [
        stored_picture(
            artifact.path / name,
            alt="Original patches above, their reconstructions below.",
            caption=f"{caption}: original above, reconstruction below.",
        )
        for name, caption in captions.items()
        if name in present
    ]
    turned = contents.get("equivariance")
    advice = advice_on_symmetries(turned) if turned else ""
    return Reconstruction(str(artifact.reference), metrics, targets, pictures, turned, advice)


def selections(
    root: StoragePath, rows: Sequence[TrialRow], *, per_class: int
) -> list[SelectionShown]:
    """What rules accepted and rejected (`random` has none), at the first seed of each setting."""
    ruled = [row for row in rows if row.command == "select" and _rule(root, row) in _JUDGING]
    return [_selection(root, row, per_class) for row in first_of_each_setting(ruled, "select")]


def table_of(path: StoragePath) -> dict[str, list[Any]]:
    """A Parquet file as lists by column."""
    found: dict[str, list[Any]] = pq.read_table(io.BytesIO(path.read_bytes())).to_pydict()
    return found


def _overlay_of(name: str) -> str:
    """What an overlay picture shows: a slide, or the first images of a part of a patch set."""
    stem = name.removesuffix(".png")
    return f"First images of {stem}" if stem.startswith("source") else f"Slide {stem}"


def _selection(root: StoragePath, row: TrialRow, per_class: int) -> SelectionShown:
    artifact = open_artifact(root, row.artifact)
    store = SampleStore.open(input_of(root, artifact, "samples", Kind.SAMPLES).path)
    table = Selection.open(artifact.path).rows.to_pylist()
    reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for entry in table:
        reasons[entry["label"]][entry["reason"]] += 1
    shown = []
    for label in store.classes:
        own = [entry for entry in table if entry["label"] == label]
        kept = sorted((e for e in own if e["accepted"]), key=lambda e: int(e["order"]))
        shown_of = {"accepted, the best first": kept}
        for reason in sorted({str(entry["reason"]) for entry in own if not entry["accepted"]}):
            shown_of[f"rejected: {reason.replace('_', ' ').lower()}"] = [
                entry for entry in own if entry["reason"] == reason
            ]
        strips = [
            _strip_of(store, what, label, entries[:per_class])
            for what, entries in shown_of.items()
            if entries
        ]
        shown.append((label, strips))
    return SelectionShown(
        name=str(artifact.reference),
        settings=setting_text(row.axes),
        reasons={label: dict(sorted(found.items())) for label, found in sorted(reasons.items())},
        accepted=sum(entry["accepted"] for entry in table),
        total=len(table),
        rows=shown,
    )


def _strip_of(
    store: SampleStore, what: str, label: str, entries: Sequence[Mapping[str, Any]]
) -> SampleRow:
    numbers = [int(entry["sample"]) for entry in entries]
    return sample_row(what, store.read_pixels(store.rows_of(numbers)), f"{what}: {label}.")


def _rule(root: StoragePath, row: TrialRow) -> str | None:
    if row.error is not None:
        return None
    rule: str = open_artifact(root, row.artifact).manifest.config["rule"]["type"]
    return rule
