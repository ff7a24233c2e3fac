"""Measures a set of samples as a ``QualityConfig`` asks: plain numbers, and a picture.

What is measured with which weights stands beside every number: name, digest and input size of the
extractor. Legend: G symmetries, N images, D features.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact, UnitIssue
from histodiff.errors import ConfigError
from histodiff.evaluation.quality import (
    FeatureSet,
    Memorisation,
    Quality,
    compare,
    memorisation,
)
from histodiff.evaluation.reconstruction import comparison_picture
from histodiff.features.extractor import Extractor, extracted_features
from histodiff.samples import SampleStore
from histodiff.storage import StoragePath, write_bytes
from histodiff.workflows.quality.config import JUDGE, QualityConfig
from histodiff.workflows.quality.extractors import check_extractor, open_extractor
from histodiff.workflows.quality.judging import Drawn, Judge, checked_judge, judged
from histodiff.workflows.quality.patches import PatchSource, patch_source

METRICS_FILE, SUSPECTS_FILE = "metrics.json", "nearest_training.png"
QUALITY, MEMORISATION, AGREEMENT = "quality", "memorisation", "agreement"
"""Keys of the measures in the contents of manifests."""
_READ_AT_ONCE = 256
_SHOWN = 8


@dataclass(frozen=True)
class Sources:
    """Real patches: held-out ones, and what was trained on; and who says what samples show."""

    real: PatchSource
    training: tuple[PatchSource, ...]
    judge: Judge | None
    """None where nobody is asked."""


@dataclass(frozen=True)
class Measured:
    """What was measured: a summary for the manifest, and patches that could not be read."""

    contents: Mapping[str, Any]
    failed: tuple[UnitIssue, ...]


def open_sources(
    config: QualityConfig,
    inputs: Mapping[str, Artifact],
    drawn: Drawn,
    *,
    root: StoragePath,
    seed: int,
) -> Sources:
    """The patches that samples are compared with, and whether everything fits, before any work.

    Args:
        config: The block.
        inputs: Its artifacts, by their key below the block.
        drawn: What is known of the samples.
        root: Where artifacts are that a judge's features and labels come from.
        seed: Draws which patches.

    Raises:
        ConfigError: Patches have another size than the samples, or there are none; or the extractor
            or the judge does not fit.
        ArtifactError: What the judge learned from is missing, or is something else now.
    """
    check_extractor(config.extractor, inputs)
    real = patch_source(
        inputs["real"],
        splits=config.real_splits,
        limit=config.real_images,
        seed=seed,
        owner="quality.real",
    )
    training = tuple(
        patch_source(
            inputs[f"training.{number}"],
            splits=("train",),
            limit=config.training_images,
            seed=seed,
            owner="quality.training",
        )
        for number in range(len(config.training))
    )
    for source in (real, *training):
        if source.index.patch_px != drawn.image_px:
            raise ConfigError(
                f"quality: {source.name} has patches of {source.index.patch_px} px, samples have"
                f" {drawn.image_px} px; tile the same tissue with patch_px: {drawn.image_px}"
            )
    judge = None if config.judge is None else checked_judge(inputs[JUDGE], root, drawn, real)
    return Sources(real, training, judge)


def measure_store(
    config: QualityConfig,
    inputs: Mapping[str, Artifact],
    store: SampleStore,
    sources: Sources,
    *,
    path: StoragePath,
    seed: int,
    device: str,
) -> Measured:
    """Measures the samples of ``store``; writes ``metrics.json`` and a picture into ``path``."""
    extractor = open_extractor(config.extractor, inputs, device=device)
    symmetries = config.symmetries if sources.training else "none"

    def features(blocks: Iterable[npt.NDArray[np.uint8]], total: int) -> npt.NDArray[np.float32]:
        return extracted_features(
            extractor, blocks, total=total, batch=config.batch, symmetries=symmetries
        )

    samples_GND = features(_sample_blocks(store), len(store))
    real_GND = features(sources.real.blocks(), len(sources.real.rows))
    labels = tuple(store.labels) if len(store.classes) > 1 else None
    quality = compare(
        FeatureSet(samples_GND[0], tuple(map(str, range(len(store)))), labels),
        FeatureSet(real_GND[0], sources.real.groups(), sources.real.labels()),
        replicates=config.replicates,
        seed=seed,
    )
    contents = {QUALITY: {**described(extractor), **quality_record(quality)}}
    if sources.judge is not None:
        contents[AGREEMENT] = judged(
            sources.judge, _sample_blocks(store), store.labels,
            batch=config.batch, replicates=config.replicates, seed=seed, device=device,
        )  # fmt: skip
    suspects: list[dict[str, Any]] = []
    if sources.training:
        copies = _copies(config, extractor, sources.training, samples_GND, real_GND)
        contents[MEMORISATION] = _memorisation_record(config, copies, sources.training)
        suspects = _suspects(store, copies, sources.training, copies.flagged)
        write_bytes(path / SUSPECTS_FILE, _picture(store, copies, sources.training))
    metrics = {**contents, "flagged": suspects}
    write_bytes(path / METRICS_FILE, (json.dumps(metrics, indent=2) + "\n").encode())
    failed = [issue for source in (sources.real, *sources.training) for issue in source.failed]
    return Measured(contents, tuple(failed))


def described(extractor: Extractor) -> dict[str, Any]:
    """Which network measured."""
    return {
        "extractor": extractor.name,
        "extractor_sha256": extractor.weights_sha256,
        "extractor_input_px": extractor.input_px,
    }


def quality_record(quality: Quality) -> dict[str, Any]:
    """The comparison as JSON-ready values."""
    values = asdict(quality)
    values["by_class"] = {label: quality_record(one) for label, one in quality.by_class.items()}
    values["warnings"] = list(quality.warnings)
    return values


def _sample_blocks(store: SampleStore) -> Iterator[npt.NDArray[np.uint8]]:
    for start in range(0, len(store), _READ_AT_ONCE):
        yield store.read_pixels(range(start, min(start + _READ_AT_ONCE, len(store))))


def _copies(
    config: QualityConfig,
    extractor: Extractor,
    training: Sequence[PatchSource],
    samples_GND: npt.NDArray[np.float32],
    real_GND: npt.NDArray[np.float32],
) -> Memorisation:
    parts = [
        extracted_features(
            extractor, source.blocks(), total=len(source.rows), batch=config.batch
        )[0]
        for source in training
    ]  # fmt: skip
    return memorisation(
        samples_GND, np.concatenate(parts), real_GND, quantile=config.memorised_quantile
    )


def _memorisation_record(
    config: QualityConfig, copies: Memorisation, training: Sequence[PatchSource]
) -> dict[str, Any]:
    return {
        "share": copies.share,
        "share_of_real": copies.quantile,
        "closer_than_any_real": copies.closer_than_any,
        "threshold": copies.threshold,
        "symmetries": config.symmetries,
        "num_real": copies.num_held_out,
        "num_training": sum(len(source.kept) for source in training),
        "num_training_left_out": sum(_num_training(s) - len(s.kept) for s in training),
    }


def _num_training(source: PatchSource) -> int:
    """Training patches of the index, whether they were asked for or not."""
    splits: list[str | None] = source.index.patches["split"].to_pylist()
    return splits.count("train")


def _suspects(
    store: SampleStore,
    copies: Memorisation,
    training: Sequence[PatchSource],
    rows: npt.NDArray[np.int64],
) -> list[dict[str, Any]]:
    """Each sample beside its nearest training patch."""
    numbers = store.rows["sample"].to_pylist()
    found = []
    for row in rows:
        source, patch = _training_patch(training, int(copies.samples.training_N[row]))
        found.append(
            {
                "sample": numbers[row],
                "relative_distance": float(copies.samples.relative_N[row]),
                "patches": source.name,
                "patch": patch,
                "slide": source.index.patches["slide_id"][patch].as_py(),
            }
        )
    return found


def _training_patch(training: Sequence[PatchSource], row: int) -> tuple[PatchSource, int]:
    """The patch that a row of the training features is of."""
    for source in training:
        if row < len(source.kept):
            return source, source.kept[row]
        row -= len(source.kept)
    raise AssertionError("no such training row")


def _picture(store: SampleStore, copies: Memorisation, training: Sequence[PatchSource]) -> bytes:
    """The most suspicious samples above their nearest training patches, flagged or not."""
    rows = copies.most_suspicious(_SHOWN)
    places = [_training_patch(training, int(copies.samples.training_N[row])) for row in rows]
    return comparison_picture(
        store.read_pixels([int(row) for row in rows]),
        np.stack([source.pixels(patch) for source, patch in places]),
        captions=("sample", "nearest training patch"),
    )
