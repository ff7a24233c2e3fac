"""What reading patches takes is counted: pixels decoded against pixels shown."""

import pytest

from histodiff.data_prep.index.patch_index import (
    PATCHES_SCHEMA,
    SLIDES_SCHEMA,
    IndexFacts,
    PatchIndex,
    table_from_rows,
)
from histodiff.data_prep.index.reading import PatchReader, read_so_far
from histodiff.runtime import ReadBytes
from tests.support.read_plans import TILE_PX, write_large_slide

TILE = 3 * TILE_PX**2
PLACES = [(0, 0), (TILE_PX, 0), (TILE_PX // 2, 2 * TILE_PX + TILE_PX // 2)]


@pytest.fixture
def index(tmp_path) -> PatchIndex:
    path = tmp_path / "slide.svs"
    write_large_slide(path, side_px=4 * TILE_PX, mpp=0.5, seed=0)
    slide = dict.fromkeys(SLIDES_SCHEMA.names) | {
        "slide_id": "a", "url": str(path), "status": "ok", "reader": "tiff",
    }  # fmt: skip
    row = dict.fromkeys(PATCHES_SCHEMA.names) | {
        "slide_id": "a", "path": "", "level": 0, "read_width": TILE_PX, "read_height": TILE_PX,
    }  # fmt: skip
    return PatchIndex(
        slides=table_from_rows([slide], SLIDES_SCHEMA),
        patches=table_from_rows([row | {"x": x, "y": y} for x, y in PLACES], PATCHES_SCHEMA),
        facts=IndexFacts(patch_px=TILE_PX, mpp=0.5, resample="box", classes=()),
    )


def read(reader: PatchReader, *patches: int) -> ReadBytes:
    before = read_so_far()
    assert reader.read(patches).failures == {}
    return read_so_far() - before


def test_read_patches_on_the_lattice_decode_what_they_show(index):
    found = read(PatchReader(index), 0, 1)
    assert found == ReadBytes(decoded=2 * TILE, shown=2 * TILE)
    assert found.amplification == 1.0


def test_read_patch_across_four_tiles_decodes_four_once(index):
    reader = PatchReader(index)
    assert read(reader, 2).amplification == 4.0
    assert read(reader, 2) == ReadBytes(decoded=0, shown=TILE)
    assert ReadBytes().amplification == 0.0
