import math

import pyarrow.parquet as pq

from histodiff.pretraining.tables import write_tables
from histodiff.storage import storage_path
from histodiff.training import MetricsRow, Rollback, TimingRow, TrainingRecords, ValidationRow


def records() -> TrainingRecords:
    return TrainingRecords(
        metrics=[MetricsRow(4, 64, 0.1 + 0.2, 1 / 3, 1e-4, 2, {"kl": 0.1})],
        validation=[ValidationRow(4, 64, 0.5, 0.25, 15)],
        timing=[TimingRow(4, 1.5, 0.1)],
        pending={"loss": [0.1, 1e-300], "kl": [1 / 3]},
        skipped=1,
        recent=[0.3, 0.1],
    )


def test_records_survive_a_checkpoint_exactly():
    assert TrainingRecords.from_json(records().to_json()) == records()


def test_records_tables_have_typed_columns_and_timing_apart(tmp_path):
    rollbacks = [Rollback(5, math.nan, math.inf, 4, 4, 5)]
    write_tables(storage_path(tmp_path), records(), rollbacks)
    metrics = pq.read_table(tmp_path / "metrics.parquet")
    names = ["step", "images_seen", "loss", "grad_norm", "lr", "skipped_steps"]
    assert metrics.column_names == names
    kinds = [str(kind) for kind in metrics.schema.types]
    assert kinds == ["int64", "int64", "double", "double", "double", "int64"]
    assert metrics["loss"].to_pylist() == [0.1 + 0.2]
    assert pq.read_table(tmp_path / "validation.parquet")["images"].to_pylist() == [15]
    assert pq.read_table(tmp_path / "timing.parquet")["seconds"].to_pylist() == [1.5]
    rolled = pq.read_table(tmp_path / "rollbacks.parquet")
    assert (rolled["back_to_step"].to_pylist(), rolled["last_batch"].to_pylist()) == ([4], [5])


def test_records_tables_without_rows_are_empty(tmp_path):
    write_tables(storage_path(tmp_path), TrainingRecords(), [])
    assert pq.read_table(tmp_path / "validation.parquet").num_rows == 0
    assert pq.read_table(tmp_path / "rollbacks.parquet").num_rows == 0


def test_records_keep_as_many_recent_losses_as_are_needed():
    kept = TrainingRecords()
    for step in range(5):
        kept.add(float(step), terms={}, skipped=step == 1, num_recent=3)
        assert kept.recent == [float(s) for s in range(step + 1)][-3:]
    assert (kept.pending, kept.skipped) == ({"loss": [0.0, 1.0, 2.0, 3.0, 4.0]}, 1)
    kept.add(5.0, terms={}, skipped=False, num_recent=0)
    assert kept.recent == []
