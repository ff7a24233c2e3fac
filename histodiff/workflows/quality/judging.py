"""What a finished classifier of real patches says that samples show, beside what it is worth.

Its own balanced accuracy is on the held-out patches of ``quality.real``: no slide or patient that
it learned from counts. Legend: N images, K classes.
"""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from histodiff.artifacts import Artifact, Kind, Reference, open_artifact
from histodiff.data_prep.index.dev_splits import DevSplit
from histodiff.data_prep.index.splits import LabelBudget
from histodiff.errors import ArtifactCorrupt, ConfigError
from histodiff.evaluation.agreement import agreement
from histodiff.evaluation.metrics import Scored, bootstrap_intervals, metric_values
from histodiff.models.weights import DESCRIPTION
from histodiff.runtime import generator_for
from histodiff.storage import StoragePath
from histodiff.workflows.classify.added import ADDED_TABLE
from histodiff.workflows.classify.opened import Predictor, open_classifier
from histodiff.workflows.labels import labelled_rows, labels_of, opened_index
from histodiff.workflows.quality.patches import PatchSource

Blocks = Iterable[npt.NDArray[np.uint8]]
_BUDGET: TypeAdapter[LabelBudget] = TypeAdapter(LabelBudget)
_DEV_SPLIT: TypeAdapter[DevSplit | None] = TypeAdapter(DevSplit | None)
_BALANCED = "balanced_accuracy"
_AT_ONCE = 2048
"""Images in memory at a time, and to a line of progress."""


@dataclass(frozen=True)
class Drawn:
    """What is known of samples before they are drawn."""

    image_px: int
    """Side of an image."""
    classes: tuple[str, ...]
    """Classes that are asked for."""
    labels_sha256: str | None
    """Labels that they know; None for none."""


@dataclass(frozen=True)
class Judge:
    """A classifier that may judge, and the real patches that it is judged by itself."""

    artifact: Artifact
    root: StoragePath
    """Where the artifacts are that its features come from."""
    same_labels: bool
    """It learned from the labels that the samples know, and no others."""
    held_out: PatchSource
    """Labelled real patches of its classes, of no slide or patient that it learned from."""
    num_known: int
    """Labelled real patches that are left out for being of one."""


def checked_judge(artifact: Artifact, root: StoragePath, drawn: Drawn, real: PatchSource) -> Judge:
    """The classifier as a judge of these samples, by its manifest and description alone.

    Raises:
        ConfigError: It learned from samples, it knows other classes or another size of patches, or
            samples have one class.
        ArtifactNotFound: The patches that it learned from are not in this root.
        ArtifactCorrupt: They are others than it learned from.
    """
    _require_fit(artifact, drawn.classes)
    known = _learned_from(artifact, root, drawn)
    columns = (real.index.patches[name].take(real.rows).to_pylist() for name in
               ("label", "slide_id", "patient_id"))  # fmt: skip
    rows = list(zip(real.rows.tolist(), *columns, strict=True))
    labelled = [row for row in rows if row[1] in drawn.classes]
    kept = [
        number
        for number, _, slide, patient in labelled
        if not known & _who(slide, patient)
    ]  # fmt: skip
    return Judge(
        artifact,
        root,
        same_labels=drawn.labels_sha256 is not None and labels_of(artifact) == drawn.labels_sha256,
        held_out=replace(real, rows=np.array(kept, np.int64), kept=[], failed=[]),
        num_known=len(labelled) - len(kept),
    )


def judged(
    judge: Judge,
    blocks: Blocks,
    labels: Iterable[str],
    *,
    batch: int,
    replicates: int,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Agreement of samples with the judge, and the judge's with real patches; JSON-ready.

    Args:
        judge: Who says.
        blocks: Pixels uint8 ``(n, H, W, 3)`` of the samples.
        labels: Class that each was asked for.
        batch: Images per forward pass.
        replicates: Bootstrap replicates, over samples and over slides.
        seed: Draws them.
        device: Where it runs.

    Raises:
        ArtifactCorrupt: The classifier is damaged, or its features come from another network now.
    """
    opened = open_classifier(judge.artifact, judge.root, batch=batch, device=device)
    intended_N = np.array([opened.classes.index(label) for label in labels], np.int64)
    said = agreement(
        np.concatenate([opened.predict(images) for images in _gathered(blocks)]),
        intended_N,
        opened.classes,
        replicates=replicates,
        seed=seed,
    )
    return {
        "judge": str(judge.artifact.reference),
        "judge_sha256": judge.artifact.manifest.content_sha256,
        "judge_labels": judge.artifact.manifest.contents.get("real"),
        "same_labels": judge.same_labels,
        **asdict(said),
        "real": _of_real(judge, opened.predict, opened.classes, replicates=replicates, seed=seed),
        "num_real_known_to_judge": judge.num_known,
    }


def _of_real(
    judge: Judge, predict: Predictor, classes: tuple[str, ...], *, replicates: int, seed: int
) -> dict[str, Any] | None:
    """Balanced accuracy of the judge on held-out patches; None where there are none."""
    source = judge.held_out
    parts = [predict(images) for images in _gathered(source.blocks()) if len(images)]
    if not parts:
        return None
    target_N = np.array([classes.index(str(label)) for label in source.column("label")], np.int64)
    scored = Scored(np.concatenate(parts), target_N, source.groups())
    rng = generator_for(seed, "quality", "bootstrap", "judge")
    drawn = bootstrap_intervals(scored, positive=None, replicates=replicates, rng=rng)[_BALANCED]
    own_N = scored.probability_NK[np.arange(len(target_N)), target_N]
    return {
        _BALANCED: metric_values(scored, positive=None)[_BALANCED],
        "low": None if drawn is None else drawn[0],
        "high": None if drawn is None else drawn[1],
        "mean_probability": float(own_N.mean()),
        "num_patches": len(target_N),
        "num_groups": len(set(scored.slide_N)),
        "classes": [label for k, label in enumerate(classes) if (target_N == k).any()],
    }


def _gathered(blocks: Blocks) -> Iterator[npt.NDArray[np.uint8]]:
    """The same images in larger blocks."""
    parts: list[npt.NDArray[np.uint8]] = []
    for block in blocks:
        parts.append(block)
        if sum(map(len, parts)) >= _AT_ONCE:
            yield np.concatenate(parts)
            parts = []
    if parts:
        yield np.concatenate(parts)


def _require_fit(artifact: Artifact, wanted: tuple[str, ...]) -> None:
    if len(wanted) < 2:
        raise ConfigError(
            f"quality.judge {artifact.reference} says which class a sample shows, and these samples"
            f" have one ({', '.join(wanted)}); draw with a guide or a variation, or set"
            " quality.judge: null"
        )
    if artifact.manifest.contents.get("synthetic"):
        raise ConfigError(
            f"quality.judge {artifact.reference} was trained on synthetic images too; name one"
            " trained on real images only"
        )
    known = _classes_of(artifact)
    if set(known) != set(wanted):
        raise ConfigError(
            f"quality.judge {artifact.reference} tells {', '.join(known)} apart, the samples are of"
            f" {', '.join(wanted)}; name a classifier of these classes"
        )


def _classes_of(artifact: Artifact) -> tuple[str, ...]:
    try:
        return tuple(json.loads((artifact.path / DESCRIPTION).read_bytes())["classes"])
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise ArtifactCorrupt(
            f"{artifact.reference}: {DESCRIPTION} does not say its classes ({error}); train it anew"
        ) from error


def _learned_from(artifact: Artifact, root: StoragePath, drawn: Drawn) -> set[str]:
    """Slides and patients whose patches the classifier learned from, labelled or added."""
    config = artifact.manifest.config
    patches = open_artifact(root, Reference(config["patches"]).as_kind(Kind.PATCHES))
    dev_split = _DEV_SPLIT.validate_python(config.get("dev_split"))
    index = opened_index(patches, dev_split=dev_split, seed=config["seed"])
    if index.patch_px != drawn.image_px:
        raise ConfigError(
            f"quality.judge {artifact.reference} learned from patches of {index.patch_px} px,"
            f" samples have {drawn.image_px} px; name one of patches of their size"
        )
    budget = _BUDGET.validate_python(config["budget"])
    labels = labelled_rows(index.patches, budget=budget, seed=config["seed"])
    if labels.sha256 != labels_of(artifact):
        raise ArtifactCorrupt(
            f"{artifact.reference} learned from other labels than {patches.reference} has now;"
            " train it anew"
        )
    tables = [index.patches.take(labels.rows)]
    if (artifact.path / ADDED_TABLE).exists():
        tables.append(pq.read_table(io.BytesIO((artifact.path / ADDED_TABLE).read_bytes())))
    return {who for table in tables for who in _everyone(table)}


def _everyone(table: Any) -> Iterator[str]:
    pairs = zip(table["slide_id"].to_pylist(), table["patient_id"].to_pylist(), strict=True)
    for slide, patient in pairs:
        yield from _who(slide, patient)


def _who(slide: str, patient: str | None) -> set[str]:
    return {f"slide {slide}", *((f"patient {patient}",) if patient else ())}
