"""A PatchIndex opened with a few columns: the same values, in few bytes a row."""

import pytest

from histodiff.data_prep.index import patch_index as module
from histodiff.data_prep.index.disjoint import assert_disjoint
from histodiff.data_prep.index.patch_index import PATCHES_SCHEMA, PatchIndex, patch_tables
from histodiff.storage import storage_path
from histodiff.workflows.encode.command import PLANNED_COLUMNS
from tests.support.null_encoding import write_null_inputs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PARTITION_ROWS", 7_000)
    write_null_inputs(storage_path(tmp_path), rows=20_000, slides=30)
    return storage_path(tmp_path) / "patches/patches/v1"


def test_compact_index_has_the_values_of_the_whole_one(folder):
    assert len(list(patch_tables(folder))) == 3
    whole = PatchIndex.open(folder)
    compact = PatchIndex.open(folder, columns=PLANNED_COLUMNS)
    assert compact.patches.column_names == list(PLANNED_COLUMNS)
    for name in PLANNED_COLUMNS:
        column = compact.patches[name]
        assert column.num_chunks == 1
        assert column.cast(PATCHES_SCHEMA.field(name).type).equals(whole.patches[name])
    assert compact.facts == whole.facts
    assert compact.patches.nbytes < 48 * 20_000 < whole.patches.nbytes / 2
    assert_disjoint(compact.patches)


def test_compact_index_of_no_patches_has_its_columns(folder):
    for part in (folder / "patches").iterdir():
        part.unlink()
    (folder / "index.json").write_text(
        (folder / "index.json").read_text().replace('"num_patches": 20000', '"num_patches": 0')
    )
    compact = PatchIndex.open(folder, columns=PLANNED_COLUMNS)
    assert (compact.patches.num_rows, compact.patches.column_names) == (0, list(PLANNED_COLUMNS))
