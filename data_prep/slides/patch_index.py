"""PatchIndex: which patches there are, of which slides. No pixels.

``slides.parquet`` has one row per slide (of a patch set: per source slide of its images), skipped
ones included; ``patches/*.parquet`` are partitions of one table sorted by (slide_id, y, x, path);
``index.json`` has what holds for all patches. The digest of the content leaves out the URLs, so the
same slides in another place give the same PatchIndex.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histodiff.errors import ArtifactCorrupt
from histodiff.storage import StoragePath, list_names, write_bytes

Resample = Literal["box", "lanczos"]
"""Filter that shrinks what was read to ``patch_px``; applied once, never to enlarge."""

FORMAT = 1
PARTITION_ROWS = 1_000_000

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
        ("bounds_x", pa.int64()),
        ("bounds_y", pa.int64()),
        ("reader", pa.string()),
        ("reader_version", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("num_patches", pa.int64()),
    ]
)
"""``url`` is the file, or for patch sets the folder that the patches' ``path`` is relative to.

``status`` is ``ok`` or a SkipReason, ``reason`` its detail.
"""

PATCHES_SCHEMA = pa.schema(
    [
        ("slide_id", pa.string()),
        ("patient_id", pa.string()),
        ("path", pa.string()),
        ("x", pa.int64()),
        ("y", pa.int64()),
        ("level", pa.int32()),
        ("read_px", pa.int32()),
        ("effective_mpp", pa.float64()),
        ("tissue_fraction", pa.float64()),
        ("label", pa.string()),
        ("split", pa.string()),
    ]
)
"""``(x, y)`` is the top-left corner in level-0 pixels; ``read_px`` the side read at ``level``."""

PATCH_ORDER = [(key, "ascending") for key in ("slide_id", "y", "x", "path")]


@dataclass(frozen=True)
class PatchIndex:
    """An opened PatchIndex; tables are in memory, slides are not touched."""

    slides: Any
    """Table of slides, `SLIDES_SCHEMA`."""
    patches: Any
    """Table of patches, `PATCHES_SCHEMA`; the row number is the patch's number everywhere."""
    patch_px: int
    """Side of every patch in pixels."""
    mpp: float | None
    """Microns per pixel of every patch (to 1 %), or None where unknown or mixed."""
    resample: Resample
    """Filter with which patches are shrunk."""
    classes: tuple[str, ...]
    """Sorted labels; empty when nothing is labelled."""

    @classmethod
    def open(cls, path: StoragePath) -> "PatchIndex":
        """The index in the folder ``path``.

        Raises:
            ArtifactCorrupt: A file is missing or is not what it should be.
        """
        try:
            about = json.loads((path / "index.json").read_bytes())
            slides = _read_table(path / "slides.parquet", SLIDES_SCHEMA)
            names = list_names(path / "patches")
            parts = [_read_table(path / "patches" / name, PATCHES_SCHEMA) for name in names]
        except (OSError, json.JSONDecodeError, pa.ArrowInvalid) as error:
            raise ArtifactCorrupt(f"{path} is not a PatchIndex: {error}") from error
        patches = pa.concat_tables(parts) if parts else PATCHES_SCHEMA.empty_table()
        if patches.num_rows != about["num_patches"]:
            raise ArtifactCorrupt(
                f"{path}: {patches.num_rows} patches instead of {about['num_patches']};"
                " a partition is missing"
            )
        return cls(
            slides=slides,
            patches=patches,
            patch_px=about["patch_px"],
            mpp=about["mpp"],
            resample=about["resample"],
            classes=tuple(about["classes"]),
        )


def labels_of(patches: Any) -> tuple[str, ...]:
    """Sorted labels of a table with a ``label`` column, nulls left out."""
    found = pc.unique(patches["label"]).to_pylist()
    return tuple(sorted(label for label in found if label is not None))


def write_patch_index(path: StoragePath, index: PatchIndex) -> str:
    """Writes ``index`` into the folder ``path`` and returns the digest of its content."""
    about = {
        "format": FORMAT,
        "num_slides": index.slides.num_rows,
        "num_patches": index.patches.num_rows,
        "patch_px": index.patch_px,
        "mpp": index.mpp,
        "resample": index.resample,
        "classes": list(index.classes),
    }
    text = (json.dumps(about, indent=2, sort_keys=True) + "\n").encode()
    logical = hashlib.sha256(text)
    logical.update(table_bytes(index.slides.drop_columns(["url"])))
    for number, start in enumerate(range(0, index.patches.num_rows, PARTITION_ROWS)):
        data = table_bytes(index.patches.slice(start, PARTITION_ROWS))
        write_bytes(path / "patches" / f"part-{number:05d}.parquet", data)
        logical.update(data)
    write_bytes(path / "slides.parquet", table_bytes(index.slides))
    write_bytes(path / "index.json", text)
    return logical.hexdigest()


def table_bytes(table: Any) -> bytes:
    """The table as Parquet; equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table.combine_chunks(), sink, compression="zstd", store_schema=True)
    return sink.getvalue()


def table_from_rows(rows: Sequence[dict[str, Any]], schema: Any) -> Any:
    """A table of ``schema`` from dictionaries with exactly its keys."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def _read_table(path: StoragePath, schema: Any) -> Any:
    table = pq.read_table(io.BytesIO(path.read_bytes()))
    if not table.schema.equals(schema):
        raise ArtifactCorrupt(f"{path}: columns are {table.schema.names}, not {schema.names}")
    return table
