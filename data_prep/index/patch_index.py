"""PatchIndex: which patches there are, of which slides. No pixels.

``slides.parquet`` has one row per slide (of a patch set: per source slide of its images), skipped
ones included; ``patches/*.parquet`` are partitions of one table sorted by (slide_id, y, x, path);
``rejected/*.parquet`` has tissue that the quality rules left out; ``index.json`` has what holds for
all patches; ``tiles/<slide>.parquet`` says where the tiles of a TIFF lie, ``series/<slide>.json``
which files a slide has besides its first. The digest of the content
leaves out URLs and tiles, so the same slides in another place give the same PatchIndex.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from histodiff.data_prep.readers.reader import Resample
from histodiff.errors import ArtifactCorrupt
from histodiff.runtime.patches import READ_SCHEMA
from histodiff.storage import StoragePath, list_names, read_bytes, write_bytes

FORMAT = 3
PARTITION_ROWS = 262_144

SLIDES_SCHEMA = pa.schema(
    [
        ("slide_id", pa.string()),
        ("patient_id", pa.string()),
        ("site", pa.string()),
        ("url", pa.string()),
        ("size_bytes", pa.int64()),
        ("content_hash", pa.string()),
        ("vendor", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("mpp_x", pa.float64()),
        ("mpp_y", pa.float64()),
        ("mpp_source", pa.string()),
        ("objective_power", pa.float64()),
        ("bounds_x", pa.int64()),
        ("bounds_y", pa.int64()),
        ("bounds_width", pa.int64()),
        ("bounds_height", pa.int64()),
        ("level_downsamples", pa.list_(pa.float64())),
        ("reader", pa.string()),
        ("reader_version", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("warning", pa.string()),
        ("phase", pa.string()),
        ("tissue_fraction", pa.float64()),
        ("tissue_mm2", pa.float64()),
        ("num_patches", pa.int64()),
        ("num_pen", pa.int64()),
        ("num_blurred", pa.int64()),
        ("num_black", pa.int64()),
        ("num_white", pa.int64()),
        ("num_unreadable", pa.int64()),
        ("duplicate_group", pa.string()),
        ("fit", pa.string()),
        ("enlargement", pa.float64()),
    ]
)
"""``url`` is the file, or for patch sets the folder that the patches' ``path`` is relative to.

``status`` is ``ok`` or a SkipReason, ``reason`` its detail. ``num_pen`` to ``num_unreadable`` count
tissue that was left out, by the first rule that it broke. Slides of one ``duplicate_group`` show
the same tissue. ``fit`` says how images of a patch set became patches, and ``enlargement`` is the
largest factor by which one was enlarged, 1 for none; both are null for a whole slide.
"""

PATCHES_SCHEMA = pa.schema(
    [
        READ_SCHEMA.field("slide_id"),
        ("patient_id", pa.string()),
        *list(READ_SCHEMA)[1:],
        ("effective_mpp_x", pa.float64()),
        ("effective_mpp_y", pa.float64()),
        ("tissue_fraction", pa.float32()),
        ("pen_fraction", pa.float32()),
        ("black_fraction", pa.float32()),
        ("white_fraction", pa.float32()),
        ("sharpness", pa.float32()),
        ("label", pa.string()),
        ("split", pa.string()),
    ]
)
"""``(x, y)`` is the top-left corner in level-0 pixels; what is read there is ``read_width`` x
``read_height`` pixels of ``level``. Scores of quality are null where they were not measured."""

REJECTED_SCHEMA = PATCHES_SCHEMA.append(pa.field("rejected", pa.string()))
"""Patches that were left out, and the rule that they broke: pen, black, white, blurred."""

_OPENING_COLUMNS = ["slide_id", "url", "size_bytes", "reader", "fit"]

PATCH_ORDER = [(key, "ascending") for key in ("slide_id", "y", "x", "path")]


@dataclass(frozen=True)
class IndexFacts:
    """What holds for all patches of an index."""

    patch_px: int
    """Side of every patch in pixels."""
    mpp: float | None
    """Microns per pixel of every patch (to 1 %), or None where unknown or mixed."""
    resample: Resample
    """Filter with which patches are shrunk."""
    classes: tuple[str, ...]
    """Sorted labels; empty when nothing is labelled."""


@dataclass(frozen=True)
class PatchIndex:
    """An opened PatchIndex; tables are in memory, slides are not touched."""

    slides: Any
    """Table of slides, `SLIDES_SCHEMA`."""
    patches: Any
    """Table of patches, `PATCHES_SCHEMA`; the row number is the patch's number everywhere."""
    facts: IndexFacts
    folder: StoragePath | None = None
    """Where it was opened."""

    @property
    def patch_px(self) -> int:
        """Side of every patch in pixels."""
        return self.facts.patch_px

    @property
    def mpp(self) -> float | None:
        """Microns per pixel of every patch (to 1 %), or None where unknown or mixed."""
        return self.facts.mpp

    @property
    def resample(self) -> Resample:
        """Filter with which patches are shrunk."""
        return self.facts.resample

    @property
    def classes(self) -> tuple[str, ...]:
        """Sorted labels; empty when nothing is labelled."""
        return self.facts.classes

    @classmethod
    def open(cls, path: StoragePath, *, columns: Sequence[str] | None = None) -> "PatchIndex":
        """The index in the folder ``path``.

        Args:
            path: Folder of the index.
            columns: Only these columns of the patches, compact, for very many patches: texts as
                dictionaries (4 bytes a row), coordinates as int32. All columns by default, in
                `PATCHES_SCHEMA`.

        Raises:
            ArtifactCorrupt: A file is missing or is not what it should be.
        """
        try:
            about = json.loads(read_bytes(path / "index.json"))
            upgrade = _UPGRADES[about["format"]]
            slides = _read_table(path / "slides.parquet", SLIDES_SCHEMA, upgrade)
            files = [path / "patches" / name for name in list_names(path / "patches")]
            parts = (_read_table(file, PATCHES_SCHEMA, upgrade) for file in files)
            patches = _joined(parts) if columns is None else _compact(parts, columns)
        except (OSError, json.JSONDecodeError, pa.ArrowInvalid, KeyError) as error:
            raise ArtifactCorrupt(f"{path} is not a PatchIndex: {error}") from error
        if patches.num_rows != about["num_patches"]:
            raise ArtifactCorrupt(
                f"{path}: {patches.num_rows} patches instead of {about['num_patches']};"
                " a partition is missing"
            )
        return cls(slides=slides, patches=patches, facts=_facts(about), folder=path)


@dataclass(frozen=True)
class IndexedSlides:
    """Slides of a PatchIndex without its patches: what a reader of pixels holds."""

    slides: Any
    """Columns ``slide_id``, ``url``, ``size_bytes``, ``reader`` and ``fit`` of the slides."""
    facts: IndexFacts
    folder: StoragePath | None

    @classmethod
    def open(cls, path: StoragePath) -> "IndexedSlides":
        """The slides of the index in the folder ``path``; few bytes, however many patches.

        Raises:
            ArtifactCorrupt: A file is missing or is not what it should be.
        """
        try:
            about = json.loads((path / "index.json").read_bytes())
            upgrade = _UPGRADES[about["format"]]
            slides = _read_table(path / "slides.parquet", SLIDES_SCHEMA, upgrade)
        except (OSError, json.JSONDecodeError, pa.ArrowInvalid, KeyError) as error:
            raise ArtifactCorrupt(f"{path} is not a PatchIndex: {error}") from error
        return cls(slides.select(_OPENING_COLUMNS), _facts(about), path)

    @classmethod
    def of(cls, index: PatchIndex) -> "IndexedSlides":
        """The slides of an opened index."""
        return cls(index.slides.select(_OPENING_COLUMNS), index.facts, index.folder)


def _facts(about: dict[str, Any]) -> IndexFacts:
    return IndexFacts(
        patch_px=about["patch_px"],
        mpp=about["mpp"],
        resample=about["resample"],
        classes=tuple(about["classes"]),
    )


def write_patch_index(path: StoragePath, index: PatchIndex) -> str:
    """Writes ``index`` into the folder ``path`` and returns the digest of its content."""
    written = stream_patch_index(path, index.facts, slides=index.slides, patches=[index.patches])
    return written.sha256


@dataclass(frozen=True)
class WrittenIndex:
    """What was written."""

    sha256: str
    """Digest of the content."""
    num_patches: int
    num_rejected: int


def stream_patch_index(
    path: StoragePath,
    facts: IndexFacts,
    *,
    slides: Any,
    patches: Iterable[Any],
    rejected: Iterable[Any] = (),
) -> WrittenIndex:
    """Writes an index whose patches come piece by piece, in order; memory does not grow with them.

    Args:
        path: Folder of the index.
        facts: What holds for all patches.
        slides: Table of slides.
        patches: Pieces of the table of patches, sorted by `PATCH_ORDER` over all pieces.
        rejected: Pieces of the table of rejected patches (`REJECTED_SCHEMA`), drawn on afterwards.
    """
    digest = hashlib.sha256()
    num_patches = _write_partitions(path / "patches", patches, digest)
    num_rejected = _write_partitions(path / "rejected", rejected, digest)
    about = {
        "format": FORMAT,
        "num_slides": slides.num_rows,
        "num_patches": num_patches,
        "num_rejected": num_rejected,
        "patch_px": facts.patch_px,
        "mpp": facts.mpp,
        "resample": facts.resample,
        "classes": list(facts.classes),
    }
    text = (json.dumps(about, indent=2, sort_keys=True) + "\n").encode()
    digest.update(text)
    digest.update(table_bytes(slides.drop_columns(["url"])))
    write_bytes(path / "slides.parquet", table_bytes(slides))
    write_bytes(path / "index.json", text)
    return WrittenIndex(digest.hexdigest(), num_patches, num_rejected)


def _write_partitions(folder: StoragePath, pieces: Iterable[Any], digest: Any) -> int:
    """Writes pieces as partitions of `PARTITION_ROWS` rows; the number of rows."""
    waiting: list[Any] = []
    number = total = 0

    def write(table: Any) -> None:
        nonlocal number, total
        data = table_bytes(table)
        write_bytes(folder / f"part-{number:05d}.parquet", data)
        digest.update(data)
        number, total = number + 1, total + table.num_rows

    for piece in pieces:
        waiting.append(piece)
        while sum(table.num_rows for table in waiting) >= PARTITION_ROWS:
            table = pa.concat_tables(waiting)
            write(table.slice(0, PARTITION_ROWS))
            waiting = [table.slice(PARTITION_ROWS)]
    if sum(table.num_rows for table in waiting):
        write(pa.concat_tables(waiting))
    return total


def patch_tables(path: StoragePath) -> Iterator[Any]:
    """The partitions of the patches of a written index, one at a time."""
    for name in list_names(path / "patches"):
        yield _read_table(path / "patches" / name, PATCHES_SCHEMA, _as_it_is)


def table_bytes(table: Any) -> bytes:
    """The table as Parquet; equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table.combine_chunks(), sink, compression="zstd", store_schema=True)
    return sink.getvalue()


def table_from_rows(rows: Sequence[dict[str, Any]], schema: Any) -> Any:
    """A table of ``schema`` from dictionaries with exactly its keys."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def file_name_of(slide_id: str) -> str:
    """The slide id as a file name: unique, and readable."""
    return slide_id.replace("%", "%25").replace("/", "%2F")


def slide_id_of(file_name: str) -> str:
    """The slide id that ``file_name_of`` made the name of."""
    return file_name.replace("%2F", "/").replace("%25", "%")


def _read_table(path: StoragePath, schema: Any, upgrade: Callable[[Any, Any], Any]) -> Any:
    table = upgrade(pq.read_table(io.BytesIO(read_bytes(path))), schema)
    if not table.schema.equals(schema):
        raise ArtifactCorrupt(f"{path}: columns are {table.schema.names}, not {schema.names}")
    return table


def _joined(parts: Iterable[Any]) -> Any:
    return pa.concat_tables([PATCHES_SCHEMA.empty_table(), *parts])


def _compact(parts: Iterable[Any], columns: Sequence[str]) -> Any:
    """Some columns of the parts as one table, each column in one piece, in few bytes a row."""
    pieces: dict[str, list[Any]] = {name: [] for name in columns}
    for part in parts:
        for name in columns:
            pieces[name].append(_compact_column(part[name]))
    joined = {}
    for name in columns:  # one column at a time: two copies of all would be the peak
        empty = _compact_column(PATCHES_SCHEMA.empty_table()[name])
        chunks = [chunk for piece in [empty, *pieces.pop(name)] for chunk in piece.chunks]
        joined[name] = pa.chunked_array(chunks, empty.type).unify_dictionaries().combine_chunks()
    return pa.table(joined)


def _compact_column(column: Any) -> Any:
    if pa.types.is_string(column.type):
        return column.dictionary_encode()
    return column.cast(pa.int32()) if pa.types.is_int64(column.type) else column


def _from_format_1(table: Any, schema: Any) -> Any:
    """A table of format 1: one scale and one side for x and y, and no quality."""
    old = {"read_width": "read_px", "read_height": "read_px"}
    old |= {"effective_mpp_x": "effective_mpp", "effective_mpp_y": "effective_mpp"}
    columns = []
    for field in schema:
        name = old.get(field.name, field.name)
        found = name in table.column_names
        columns.append(
            table[name].cast(field.type) if found else pa.nulls(table.num_rows, field.type)
        )
    return pa.table(columns, schema=schema)


def _from_format_2(table: Any, schema: Any) -> Any:
    """A table of format 2: nothing was enlarged or padded, and how images were cut is not said."""
    columns = [
        table[field.name] if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _as_it_is(table: Any, schema: Any) -> Any:
    del schema
    return table


_UPGRADES: dict[int, Callable[[Any, Any], Any]] = {
    1: _from_format_1,
    2: _from_format_2,
    FORMAT: _as_it_is,
}
