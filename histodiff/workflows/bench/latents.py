"""The latent store that ``bench loader`` and ``bench train`` read: random moments.

They belong to generated slides of about 130 patches each (1,000 for ``bench loader``). Written
through the public writer, with rows in the order of a real plan, so that shards mix slides as they
do after ``encode`` with `configs/encode/large.yaml`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from histodiff.errors import ArtifactNotFound
from histodiff.latents import (
    LatentStore,
    ShardWriter,
    StoreAttributes,
    StoreLayout,
    finish_store,
    plan_shards,
)
from histodiff.runtime import generator_for
from histodiff.storage import StoragePath
from histodiff.telemetry import progress

MOMENT_SHAPE = (8, 32, 32)
ROWS_PER_CHUNK, SUPERTILE, MIXING = 256, 8, 64
"""As in `configs/encode/large.yaml`."""
PATCH_PX = 256
SPLIT = "train"
_GRID_SIDES = (6, 18)
"""Patches across and down of a slide, from and below: about 130 patches a slide."""
_SEED = 0


@dataclass(frozen=True)
class BenchSize:
    """How large the store is."""

    rows: int
    rows_per_shard: int
    moment_shape: tuple[int, int, int] = MOMENT_SHAPE

    @property
    def name(self) -> str:
        """Folder of such a store."""
        shape = "x".join(map(str, self.moment_shape))
        return f"latents-{self.rows}-{self.rows_per_shard}-{shape}"


def bench_store(folder: StoragePath, size: BenchSize) -> LatentStore:
    """The store in ``folder``, written where it is not there yet."""
    path = folder / size.name
    try:
        return LatentStore.open(path)
    except ArtifactNotFound:
        _write(path, size)
    return LatentStore.open(path)


def bench_patches(num_rows: int) -> pa.Table:
    """Patches of slides of seeded sizes, each a grid; one split."""
    rng = generator_for(_SEED, "bench loader", "slides")
    low, high = _GRID_SIDES
    across, down = rng.integers(low, high, size=(2, num_rows // low**2 + 1))
    slide = np.repeat(np.arange(len(across)), across * down)[:num_rows]
    starts = np.cumsum(across * down) - across * down
    row, column = np.divmod(np.arange(num_rows) - starts[slide], across[slide])
    return pa.table(
        {
            "slide_id": [f"slide-{number:05d}" for number in slide],
            "patient_id": [f"patient-{number:05d}" for number in slide],
            "path": [""] * num_rows,
            "x": PATCH_PX * column,
            "y": PATCH_PX * row,
            "label": pa.nulls(num_rows, pa.string()),
            "split": [SPLIT] * num_rows,
        }
    )


def _write(path: StoragePath, size: BenchSize) -> None:
    layout = StoreLayout(
        num_rows=size.rows,
        moment_shape=size.moment_shape,
        rows_per_shard=size.rows_per_shard,
        rows_per_chunk=min(ROWS_PER_CHUNK, size.rows_per_shard),
        attributes=StoreAttributes(encoder_sha256="0" * 64, patch_px=PATCH_PX, mpp=0.5, classes=()),
    )
    patches = bench_patches(size.rows)
    plan = plan_shards(
        patches,
        supertile=SUPERTILE,
        mixing=MIXING,
        rows_per_shard=size.rows_per_shard,
        seed=_SEED,
    )
    writer = ShardWriter(path, layout)
    writer.write_metadata()
    records = {}
    with progress("bench: store", total=size.rows, unit="rows") as bar:
        for shard in range(plan.num_shards):
            moments = _moments(shard, len(plan.patches_of(shard)), shape=size.moment_shape)
            records[shard] = writer.write(shard, moments, {})
            bar.advance(len(moments))
    finish_store(path, layout, patches=patches, patch_of_row=plan.patch_of_row, records=records)


def _moments(shard: int, rows: int, *, shape: tuple[int, int, int]) -> npt.NDArray[np.float16]:
    """Seeded moments of a shard: normal means, positive standard deviations."""
    rng = generator_for(_SEED, "bench loader", "moments", shard)
    moments = rng.standard_normal((rows, *shape), dtype=np.float32).astype(np.float16)
    deviations = moments[:, shape[0] // 2 :]
    np.abs(deviations, out=deviations)
    return moments
