"""What ``encode`` fetches of remote slides: bytes and requests, on its own plan.

Slides are large and cheap to write: few different JPEG tiles, each written many times, so that
every tile has bytes of its own and a size that varies. The tissue is a round shape with holes. All
parts of all units are read by one ``EncodeReader``, as in the order of one worker.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
import tifffile

from histodiff.config import load_config
from histodiff.config.loader import shipped_configs
from histodiff.data_prep.generated import render_slide
from histodiff.data_prep.index.geometry import read_plan, slide_grid
from histodiff.data_prep.index.patch_index import (
    PATCHES_SCHEMA,
    SLIDES_SCHEMA,
    IndexFacts,
    PatchIndex,
    file_name_of,
    table_from_rows,
    write_patch_index,
)
from histodiff.data_prep.readers.opening import open_slide_at
from histodiff.data_prep.readers.tiff_index import TiffIndex
from histodiff.data_prep.stages.parts import EncodeReader, parts_of
from histodiff.latents import plan_shards
from histodiff.storage import StoragePath, storage_path, write_bytes
from histodiff.telemetry.metrics import (
    TILE_FETCHED_BYTES,
    TILE_NEEDED_BYTES,
    TILE_RANGE_REQUESTS,
    total,
)
from histodiff.workflows.encode import EncodeConfig

TILE_PX = 256
PATCH_PX = 256
MPP = 0.5
_KINDS = 64


@dataclass(frozen=True)
class Fetched:
    """What reading all patches took."""

    patches: int
    requests: int
    fetched_bytes: int
    needed_bytes: int
    """Bytes of all tiles that the patches touch, each once."""
    counted_bytes: int
    """What the metric of needed bytes counted: each tile once per fetch."""

    @property
    def amplification(self) -> float:
        """Bytes fetched per byte needed."""
        return self.fetched_bytes / self.needed_bytes

    @property
    def requests_per_patch(self) -> float:
        """Range requests per patch."""
        return self.requests / self.patches

    def __str__(self) -> str:
        return (
            f"{self.patches} patches, {self.requests} requests ({self.requests_per_patch:.3f} per"
            f" patch), {self.fetched_bytes} bytes fetched of {self.needed_bytes} needed"
            f" (amplification {self.amplification:.3f})"
        )


def write_large_slide(path: Path, *, side_px: int, mpp: float, seed: int) -> None:
    """An Aperio SVS of one level, every tile with bytes of its own."""
    rng = np.random.default_rng(seed)
    field = render_slide(0, seed % 4, size_px=TILE_PX * int(_KINDS**0.5))
    across = field.shape[0] // TILE_PX
    blocks = field.reshape(across, TILE_PX, across, TILE_PX, 3).swapaxes(1, 2)
    kinds = [
        simplejpeg.encode_jpeg(np.ascontiguousarray(block), quality=80, colorsubsampling="420")
        for block in blocks.reshape(-1, TILE_PX, TILE_PX, 3)
    ]
    number = (side_px // TILE_PX) ** 2
    description = (
        f"Aperio Image Library test\r\n{side_px}x{side_px} [0,0 {side_px}x{side_px}]"
        f" ({TILE_PX}x{TILE_PX}) JPEG/YCC Q=80|AppMag = 40|MPP = {mpp}"
    )
    with tifffile.TiffWriter(path, bigtiff=False) as tiff:
        tiff.write(
            (kinds[int(kind)] for kind in rng.integers(0, len(kinds), number)),
            shape=(side_px, side_px, 3), dtype=np.uint8, tile=(TILE_PX, TILE_PX),
            photometric="ycbcr", compression="jpeg", subsampling=(2, 2), description=description,
            metadata=None,
        )  # fmt: skip


def indexed(folder: StoragePath, urls: Sequence[str], *, mpp: float) -> PatchIndex:
    """A written PatchIndex of the slides, with a round tissue with holes in each."""
    slides, rows = [], []
    for number, url in enumerate(urls):
        name = f"slide-{number:03d}"
        opened = open_slide_at(storage_path(url))
        info, index = opened.reader.info, opened.index
        assert index is not None
        write_bytes(folder / "tiles" / f"{file_name_of(name)}.parquet", index.to_bytes())
        opened.close()
        slides.append(
            dict.fromkeys(SLIDES_SCHEMA.names)
            | {"slide_id": name, "url": url, "status": "ok", "reader": info.reader}
        )
        plan = read_plan(info, slide_mpp=(mpp, mpp), mpp=MPP, patch_px=PATCH_PX)
        grid = slide_grid(info, plan, patch_px=PATCH_PX, stride_px=PATCH_PX, phase="aligned")
        row = dict.fromkeys(PATCHES_SCHEMA.names) | {"slide_id": name, "path": "", "level": 0}
        row |= {"read_width": plan.read_width, "read_height": plan.read_height, "split": "train"}
        inside = _tissue(grid.corners, info.width, seed=number)
        rows += [row | {"x": int(x), "y": int(y)} for x, y in grid.corners[inside]]
    index = PatchIndex(
        slides=table_from_rows(slides, SLIDES_SCHEMA),
        patches=table_from_rows(rows, PATCHES_SCHEMA),
        facts=IndexFacts(patch_px=PATCH_PX, mpp=MPP, resample="box", classes=()),
    )
    write_patch_index(folder, index)
    return PatchIndex.open(folder)


def _tissue(corners: npt.NDArray[np.int64], side_px: int, *, seed: int) -> npt.NDArray[np.bool_]:
    """Which patches lie in a disc that has four round holes."""
    rng = np.random.default_rng(seed)
    places = corners / side_px
    inside = np.hypot(*(places - 0.5).T) < 0.45
    for hole in rng.uniform(0.2, 0.8, (4, 2)):
        inside &= np.hypot(*(places - hole).T) > 0.07
    return inside


def fetched_by(index: PatchIndex, config: EncodeConfig) -> Fetched:
    """Reads every part of every unit of the config's plan, and counts."""
    assert index.folder is not None
    plan = plan_shards(
        index.patches, supertile=config.supertile, mixing=config.mixing,
        rows_per_shard=config.store.rows_per_shard, seed=config.seed,
    )  # fmt: skip
    reader = EncodeReader(index.folder)
    before = _counted()
    patches = 0
    for unit in plan.units():
        for part in parts_of(unit, batch=config.batch):
            block = reader.read(part)
            assert not block.failures
            patches += len(block.positions)
    requests, fetched, counted = np.subtract(_counted(), before)
    assert patches == index.patches.num_rows
    return Fetched(patches, int(requests), int(fetched), needed_bytes(index), int(counted))


def needed_bytes(index: PatchIndex) -> int:
    """Bytes of the tiles that patches touch, by plain arithmetic."""
    assert index.folder is not None
    tables: dict[str, TiffIndex] = {}
    touched: set[tuple[str, int]] = set()
    for row in index.patches.to_pylist():
        name = row["slide_id"]
        if name not in tables:
            path = index.folder / "tiles" / f"{name}.parquet"
            tables[name] = TiffIndex.from_bytes(path.read_bytes())
        across = tables[name].levels[0].tiles_across
        for down in range(row["y"] // TILE_PX, (row["y"] + row["read_height"] - 1) // TILE_PX + 1):
            for right in range(
                row["x"] // TILE_PX, (row["x"] + row["read_width"] - 1) // TILE_PX + 1
            ):
                touched.add((name, down * across + right))
    return sum(int(tables[name].levels[0].sizes[number]) for name, number in touched)


def shipped_encode(name: str) -> EncodeConfig:
    """A shipped config of ``encode``."""
    return load_config(EncodeConfig, shipped_configs() / "encode" / f"{name}.yaml")


def _counted() -> tuple[int, ...]:
    counters = (TILE_RANGE_REQUESTS, TILE_FETCHED_BYTES, TILE_NEEDED_BYTES)
    return tuple(total(counter) for counter in counters)
