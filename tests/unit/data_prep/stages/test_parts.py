"""Parts of a unit end with supertiles, and how a unit is cut changes no byte of its shard."""

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histodiff.data_prep.stages.encode import EncodeSettings, ShardEncoder
from histodiff.data_prep.stages.parts import MAX_PART_ROWS, MIN_PART_ROWS, parts_of
from histodiff.latents import ShardUnit, ShardWriter
from histodiff.latents.layout import shard_name
from histodiff.runtime import PixelBlock
from histodiff.storage import storage_path
from tests.support.encoders import load_convolution_encoder
from tests.support.latent_stores import store_layout


def unit_of(supertiles: list[int]) -> ShardUnit:
    """A unit whose supertiles have so many rows, read in another order than they are stored."""
    rows = sum(supertiles)
    order = np.random.default_rng(0).permutation(rows)
    known = pa.table({"x": np.arange(rows) + 1000})
    return ShardUnit(0, np.arange(rows) + 1000, order, np.cumsum(supertiles), known)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=30), st.integers(1, 600))
def test_parts_have_every_row_once_and_end_with_supertiles(supertiles, batch):
    unit = unit_of(supertiles)
    parts = parts_of(unit, batch=batch)
    assert np.array_equal(np.concatenate([part.positions for part in parts]), unit.reading_order)
    assert all(np.array_equal(part.table()["x"], part.positions + 1000) for part in parts)
    assert all(1 <= len(part.positions) <= MAX_PART_ROWS for part in parts)
    ends = set(unit.supertile_ends.tolist())
    cuts = set(np.cumsum([len(part.positions) for part in parts]).tolist())
    if max(supertiles) <= MAX_PART_ROWS:
        assert cuts <= ends
    if max(supertiles) + MIN_PART_ROWS <= MAX_PART_ROWS:
        assert all(len(part.positions) >= MIN_PART_ROWS for part in parts[:-1])


@pytest.mark.parametrize("sizes", [[13], [1] * 13, [4, 4, 4, 1], [5, 0, 7, 1], [2, 11]])
def test_shard_bytes_do_not_depend_on_how_pixels_come(tmp_path, sizes):
    found = [shard_bytes(tmp_path / name, cut) for name, cut in (("a", sizes), ("b", [4, 9]))]
    assert found[0] == found[1]


def shard_bytes(folder, sizes):
    """A shard of 13 rows, one unreadable, whose blocks have ``sizes`` rows; batches are of 4."""
    writer = ShardWriter(storage_path(folder), store_layout(13, rows_per_shard=16))
    writer.write_metadata()
    encoder = ShardEncoder(
        partial(load_convolution_encoder, storage_path(folder), device="cpu"),
        writer=writer, settings=EncodeSettings(4, 1, "fp32"), device="cpu",
    )  # fmt: skip
    unit = unit_of([6, 7])
    pixels = np.random.default_rng(1).integers(0, 256, (13, 4, 4, 3), dtype=np.uint8)
    blocks = []
    for positions in np.split(unit.reading_order, np.cumsum(sizes)[:-1]):
        failures = {7: "UNREADABLE: lost"} if 7 in positions else {}
        blocks.append(PixelBlock(positions, pixels[positions], failures))
    record = encoder.run(unit, blocks).record
    assert record.quarantined == {7: "UNREADABLE: lost"}
    return (storage_path(folder) / shard_name(0)).read_bytes()
