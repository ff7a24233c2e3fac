"""The tables of a PatchIndex, put together from the records that the workers left in the ledger."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from histodiff.data_prep.index.disjoint import DisjointSplits
from histodiff.data_prep.index.patch_index import (
    PATCH_ORDER,
    PATCHES_SCHEMA,
    SLIDES_SCHEMA,
    IndexFacts,
    WrittenIndex,
    table_from_rows,
)
from histodiff.data_prep.index.splits import (
    SPLITS,
    SplitConfig,
    assign_splits,
    majority_label,
)
from histodiff.data_prep.stages.tile import (
    TileRecord,
    read_unit_patches,
)
from histodiff.data_prep.stages.tile_rows import REJECTED_COUNTS, Row, merged
from histodiff.storage import StoragePath


def slides_table(records: Iterable[TileRecord], same: Mapping[str, str]) -> Any:
    """The table of slides: one row each, merged from the units that hold a part of it.

    Args:
        records: Of all units.
        same: Name of the group of each slide that shares tissue with another.
    """
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    for record in records:
        for row in record.slides:
            rows[row["slide_id"]].append(row)
    found = [merged(rows[key]) | {"duplicate_group": same.get(key)} for key in sorted(rows)]
    return table_from_rows(found, SLIDES_SCHEMA)


def label_counts(record: TileRecord) -> Counter[str]:
    """Patches of each label in one unit."""
    return sum((Counter(found) for found in record.labels.values()), Counter[str]())


def assigned_splits(
    records: Iterable[TileRecord], slides: Any, config: SplitConfig, same: Mapping[str, str]
) -> dict[str, str]:
    """The split of every slide that has patches; those that the data set states are kept."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    given: dict[str, str] = {}
    for record in records:
        given |= record.splits
        for slide_id, found in record.labels.items():
            counts[slide_id].update(found)
    labels = {slide_id: majority_label(found) for slide_id, found in counts.items()}
    used = slides.filter(pc.greater(slides["num_patches"], 0))
    free = used.filter(pc.invert(pc.is_in(used["slide_id"], pa.array(list(given), pa.string()))))
    return given | assign_splits(free, config, labels=labels, same=same)


def patch_pieces(
    ledger: StoragePath,
    records: Mapping[str, TileRecord],
    split_of: Mapping[str, str],
    which: str | None,
) -> Iterator[Any]:
    """The tables of all units as pieces in the order of the index; few units in memory at a time.

    Args:
        ledger: Folder of the units.
        records: Their records, by name.
        split_of: Split of every slide with patches.
        which: None for the patches, ``rejected`` for those that were left out.

    Raises:
        ConfigError: On the way, where a patient is in two splits.
    """
    units_of: defaultdict[str, list[str]] = defaultdict(list)
    for name, record in records.items():
        for row in record.slides:
            if _num_rows(row, which):
                units_of[row["slide_id"]].append(name)
    tables: dict[str, Any] = {}
    disjoint = DisjointSplits()
    for units, slides in groupby(sorted(units_of), key=lambda slide: units_of[slide]):
        tables = {name: tables.get(name) or _unit_table(ledger, name, which) for name in units}
        found = pa.concat_tables(tables.values())
        wanted = found.filter(pc.is_in(found["slide_id"], pa.array(list(slides), pa.string())))
        piece = _with_splits(wanted.sort_by(PATCH_ORDER), split_of)
        disjoint.add(piece)
        yield piece


def _num_rows(row: Row, which: str | None) -> int:
    """Rows of a slide in the table of patches, or in that of rejected ones."""
    if which is None:
        return int(row["num_patches"])
    return sum(int(row[column] or 0) for column in REJECTED_COUNTS.values())


def _unit_table(ledger: StoragePath, name: str, which: str | None) -> Any:
    table = read_unit_patches(ledger, name)
    if which is None:
        return table.filter(pc.is_null(table["rejected"])).drop_columns(["rejected"])
    return table.filter(pc.is_valid(table["rejected"]))


def _with_splits(patches: Any, split_of: Mapping[str, str]) -> Any:
    """``patches`` with the split of their slides; null for a slide that has none."""
    coded = patches["slide_id"].combine_chunks().dictionary_encode()
    splits = pa.array([split_of.get(name) for name in coded.dictionary.to_pylist()], pa.string())
    position = PATCHES_SCHEMA.get_field_index("split")
    return patches.set_column(position, PATCHES_SCHEMA.field("split"), splits.take(coded.indices))


def index_contents(
    facts: IndexFacts,
    slides: Any,
    written: WrittenIndex,
    split_of: Mapping[str, str],
    labels: Mapping[str, int],
) -> dict[str, Any]:
    """What the manifest says of the index: counts of slides and patches, in all and by split."""
    by_split: Counter[str] = Counter()
    for row in slides.select(["slide_id", "num_patches"]).to_pylist():
        if row["num_patches"]:
            by_split[split_of[row["slide_id"]]] += row["num_patches"]
    return {
        "slides": slides.num_rows,
        "slides_with_patches": len(split_of),
        "patches": written.num_patches,
        "rejected": written.num_rejected,
        "patch_px": facts.patch_px,
        "mpp": facts.mpp,
        "patches_by_split": {name: by_split[name] for name in SPLITS},
        "patches_by_class": {name: labels[name] for name in facts.classes},
    }
