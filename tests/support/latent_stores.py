"""Small latent stores, written through the public writer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from histodiff.latents import (
    LatentStore,
    ShardWriter,
    StoreAttributes,
    StoreDigests,
    StoreLayout,
    finish_store,
    plan_shards,
)
from histodiff.runtime.symmetries import ChannelSymmetries
from histodiff.storage import StoragePath, storage_path

ENCODER = "e" * 64
SWAPPED = ChannelSymmetries(
    permutation=((0, 1), (1, 0)) * 4,
    sign=((1, 1), (1, -1), (-1, -1), (-1, 1), (-1, 1), (-1, -1), (1, -1), (1, 1)),
)
"""Two channels that quarter turns exchange, as an edge across and one down."""


def patch_table(*, slides: int, side: int, split: str | None = None) -> pa.Table:
    """``slides`` slides with a square grid of ``side * side`` patches each."""
    rows = [
        {
            "slide_id": f"slide-{slide:03d}",
            "patient_id": f"patient-{slide:03d}",
            "path": "",
            "x": 224 * column,
            "y": 224 * row,
            "level": 0,
            "read_width": 224,
            "read_height": 224,
            "label": ("benign", "cancer", None)[slide % 3],
            "split": split or ("train", "train", "val", "test")[slide % 4],
        }
        for slide in range(slides)
        for row in range(side)
        for column in range(side)
    ]
    return pa.Table.from_pylist(rows)


def store_layout(num_rows: int, **changes: object) -> StoreLayout:
    attributes = StoreAttributes(
        encoder_sha256=changes.pop("encoder", ENCODER),
        patch_px=64,
        mpp=changes.pop("mpp", 0.5),
        classes=("benign", "cancer"),
        symmetries=changes.pop("symmetries", None),
    )
    values = {"moment_shape": (4, 2, 2), "rows_per_shard": 16, "rows_per_chunk": 4, **changes}
    return StoreLayout(num_rows=num_rows, attributes=attributes, **values)


def moments_of(patches: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Moments that tell which patch they belong to: the first value is its number."""
    generator = np.random.Generator(np.random.Philox(7))
    base = generator.normal(size=(int(patches.max()) + 1, *shape)).astype(np.float16)
    base[:, shape[0] // 2 :] = np.abs(base[:, shape[0] // 2 :])
    base[:, 0, 0, 0] = np.arange(len(base))
    return base[patches]


def write_store(
    path: Path | StoragePath,
    patches: pa.Table,
    *,
    quarantined: dict[int, str] | None = None,
    seed: int = 0,
    order: np.ndarray | None = None,
    **changes: object,
) -> StoreDigests:
    """A finished store; ``quarantined`` is by patch number, ``order`` are patches in row order."""
    place = storage_path(path)
    layout = store_layout(patches.num_rows, **changes)
    writer = ShardWriter(place, layout)
    writer.write_metadata()
    plan = plan_shards(
        patches, supertile=2, mixing=4, rows_per_shard=layout.rows_per_shard, seed=seed
    )
    if order is not None:
        plan = replace(plan, patch_of_row=order)
    records = {}
    for unit in plan.units():
        reasons = {
            position: (quarantined or {})[int(patch)]
            for position, patch in enumerate(unit.patches)
            if int(patch) in (quarantined or {})
        }
        moments = moments_of(unit.patches, layout.moment_shape)
        records[unit.shard] = writer.write(unit.shard, moments, reasons)
    return finish_store(
        place, layout, patches=patches, patch_of_row=plan.patch_of_row, records=records
    )


def open_new_store(path: Path, patches: pa.Table, **options: object) -> LatentStore:
    write_store(path, patches, **options)
    return LatentStore.open(storage_path(path))
