"""Duplicates among what was tiled: files with equal bytes, and pictures of the same tissue.

Workers describe the images of patch sets and the pictures of slides while they have them in hand;
the search runs once, over all units. What is found is written as a table of pairs and as counts,
and says which slides must not be divided between splits.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from histodiff.config import Config
from histodiff.data_prep.duplicates.descriptors import DESCRIPTOR_BYTES
from histodiff.data_prep.duplicates.duplicates import (
    PAIRS_SCHEMA,
    DuplicateConfig,
    duplicate_groups,
    exact_duplicates,
    near_duplicate_pairs,
    slides_with_shared_tissue,
)
from histodiff.data_prep.duplicates.report import duplicate_report
from histodiff.data_prep.readers.containers import member_of
from histodiff.data_prep.readers.image_decoder import ImageDecoder
from histodiff.data_prep.readers.image_files import decode_bytes
from histodiff.data_prep.sources.inputs import Inputs
from histodiff.data_prep.stages.tile import unit_name
from histodiff.storage import StoragePath, storage_path

FOUND_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("first_slide", pa.string()),
        ("first_path", pa.string()),
        ("second_slide", pa.string()),
        ("second_path", pa.string()),
        ("score", pa.float64()),
        ("overlap", pa.float64()),
    ]
)
"""Pairs: ``exact`` (equal bytes, or equal pixels of level 0, with the first of them) or ``near``;
path is empty for slides."""


class DuplicateSearch(Config):
    """What is looked for besides files with equal bytes, which are always found."""

    patches: DuplicateConfig | None = None
    """Near-duplicates among the images of patch sets, however turned, flipped or zoomed; null: not
    looked for. One core takes about 35 s for 1,000 images."""
    slides: DuplicateConfig | None = None
    """Slides whose pictures show the same tissue; null: not looked for. Serial sections look alike
    up to a score of 0.8: take `min_score: 0.85`."""
    keep_together: bool = False
    """Slides that share a picture go into one split. Look at `duplicates.json` first: one blank
    image that many slides have would unite them all."""


@dataclass(frozen=True)
class DuplicateFindings:
    """What was found."""

    same: Mapping[str, str]
    """Slides that share tissue with another one -> the first of them."""
    pairs: Any
    """Table of `FOUND_SCHEMA`."""
    counts: Mapping[str, Any]
    """Counts of images and of slides, JSON-ready."""


@dataclass(frozen=True)
class _Items:
    """Images of patch sets, or slides; all of one length."""

    slides: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)


def find_duplicates(
    found: Inputs,
    ledger: StoragePath,
    search: DuplicateSearch,
    *,
    level_digests: Mapping[str, str],
) -> DuplicateFindings:
    """Looks for duplicates among inputs whose units are all in the ledger.

    Args:
        found: The inputs.
        ledger: Folder of what is known of their units.
        search: What is looked for besides equal files.
        level_digests: What level 0 of each slide shows, by slide id, where that is known: slides
            with equal ones are as equal as files, whatever contains them.
    """
    decoder = ImageDecoder()
    images, slides = _images(found), _slides(found, level_digests)

    def image(number: int) -> npt.NDArray[np.uint8]:
        return decoder.decode(storage_path(images.folders[number]), images.paths[number])

    def picture(number: int) -> npt.NDArray[np.uint8]:
        name = f"{slides.units[number]}.png"
        return decode_bytes((ledger / name).read_bytes(), name=name)

    kinds = (
        ("images", images, search.patches, image),
        ("slides", slides, search.slides, picture),
    )
    same: dict[str, str] = {}
    counts: dict[str, Any] = {}
    tables = [FOUND_SCHEMA.empty_table()]
    for name, items, config, read in kinds:
        if items.slides:
            shared, counts[name], table = _searched(items, ledger, config, read)
            same |= {slide: f"{name}/{first}" for slide, first in shared.items()}
            tables.append(table)
    decoder.close()
    return DuplicateFindings(same, pa.concat_tables(tables), counts)


def _searched(
    items: _Items,
    ledger: StoragePath,
    config: DuplicateConfig | None,
    read: Callable[[int], npt.NDArray[np.uint8]],
) -> tuple[dict[str, str], dict[str, Any], Any]:
    """Slides that share tissue, counts, and pairs."""
    exact = exact_duplicates(items.hashes)
    pairs, described = PAIRS_SCHEMA.empty_table(), np.zeros((0, DESCRIPTOR_BYTES), np.uint8)
    if config is not None:
        described, numbers = _descriptors(items, ledger)
        near = near_duplicate_pairs(
            described, config=config, read_pixels=lambda place: read(int(numbers[place]))
        )
        pairs = _renumbered(near, numbers)
    report = duplicate_report(
        pairs, descriptors=described, exact=exact, slide_ids=items.slides, sources=items.sources
    )
    groups = duplicate_groups(len(items.slides), pairs, exact=exact)
    shared = slides_with_shared_tissue(items.slides, groups)
    return shared, report.to_json(), _table(items, exact, pairs)


def _images(found: Inputs) -> _Items:
    items = _Items()
    for part in found.image_sets:
        for image in part.images:
            items.slides.append(image.slide_id)
            items.paths.append(image.path)
            items.folders.append(part.url)
            # patches of one array file share its hash: their own place tells them apart
            inside = member_of(image.path) is not None
            items.hashes.append(f"{part.url}/{image.path}" if inside else image.content_hash)
            items.sources.append(part.name.partition("-")[0])
            items.units.append(part.name)
    return items


def _slides(found: Inputs, level_digests: Mapping[str, str]) -> _Items:
    items = _Items()
    for slide in found.slides:
        items.slides.append(slide.slide_id)
        items.paths.append("")
        items.folders.append(slide.url)
        items.hashes.append(level_digests.get(slide.slide_id) or slide.content_hash)
        items.sources.append("slides")
        items.units.append(unit_name(slide))
    return items


def _descriptors(items: _Items, ledger: StoragePath) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Descriptors of the items that could be decoded, and their numbers."""
    number_of = {
        (unit, path): number
        for number, (unit, path) in enumerate(zip(items.units, items.paths, strict=True))
    }
    blocks = [np.zeros((0, DESCRIPTOR_BYTES), np.uint8)]
    numbers: list[int] = []
    for unit, table in _described_units(items.units, ledger):
        column = table["descriptor"].combine_chunks()
        flat = np.frombuffer(b"".join(column.to_pylist()), np.uint8)
        blocks.append(flat.reshape(-1, DESCRIPTOR_BYTES))
        numbers += [number_of[unit, path] for path in table["path"].to_pylist()]
    return np.concatenate(blocks), numbers


def _described_units(units: Sequence[str], ledger: StoragePath) -> Iterator[tuple[str, Any]]:
    for unit in dict.fromkeys(units):
        data = (ledger / f"{unit}.descriptors.parquet").read_bytes()
        yield unit, pq.read_table(io.BytesIO(data))


def _renumbered(pairs: Any, numbers: Sequence[int]) -> Any:
    """Pairs of described items as pairs of items."""
    places = np.asarray(numbers, dtype=np.int64)
    for name in ("first", "second"):
        position = pairs.schema.get_field_index(name)
        field_type = pairs.schema.field(name)
        column = pa.array(places[pairs[name].to_numpy()], field_type.type)
        pairs = pairs.set_column(position, field_type, column)
    return pairs


def _table(items: _Items, exact: Sequence[Sequence[int]], pairs: Any) -> Any:
    rows = [
        _row(items, "exact", group[0], other, 1.0, 1.0) for group in exact for other in group[1:]
    ]
    rows += [
        _row(items, "near", row["first"], row["second"], row["score"], row["overlap"])
        for row in pairs.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=FOUND_SCHEMA)


def _row(
    items: _Items, kind: str, first: int, second: int, score: float, overlap: float
) -> dict[str, Any]:
    return {
        "kind": kind,
        "first_slide": items.slides[first],
        "first_path": items.paths[first],
        "second_slide": items.slides[second],
        "second_path": items.paths[second],
        "score": score,
        "overlap": overlap,
    }
