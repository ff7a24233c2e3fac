import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from histodiff.errors import ConfigError
from histodiff.latents import LatentStore
from histodiff.storage import storage_path
from histodiff.workflows.bench import bench
from histodiff.workflows.bench import latents as bench_latents
from histodiff.workflows.bench.loader import rows_digest
from histodiff.workflows.bench.passes import Pass, median_rate, ratio, timed
from histodiff.workflows.bench.peers import peer_process

REPOSITORY = Path(__file__).resolve().parents[3]
SMALL = ("rows=1024", "shard=512", "rounds=1")
RATES = ("rows_per_s", "vs_memory_copy", "vs_memory_copy_into_new_buffers")
NOT_RUN = (
    "vs_streaming",
    "vs_hdf5",
    "vs_hdf5_random",
    "s3_rows_per_s",
    "s3_raw_get_rows_per_s",
    "s3_vs_raw_get",
    "s3_first_epoch_vs_raw_get",
)


def test_bench_loader_reports_every_field_and_null_where_not_run(tmp_path: Path) -> None:
    result = bench("loader", [*SMALL, f"folder={tmp_path}"])
    assert all(isinstance(result[field], float) and result[field] > 0 for field in RATES)
    assert all(result[field] is None for field in (*NOT_RUN, "peers", "s3"))
    assert result["same_rows"] == {"ours": True}
    perfect = result["distinct_slides_per_256_of_perfect_shuffle"]
    assert 0 < result["distinct_slides_per_256"] <= result["slides"]
    assert result["distinct_slides_vs_perfect_shuffle"] == pytest.approx(
        result["distinct_slides_per_256"] / perfect
    )
    assert {len(runs) for runs in result["seconds"].values()} == {1}
    rates = {name for name in result["training_draws"] if name.endswith("rows_per_s")}
    assert rates == {"draws_rows_per_s", "posterior_rows_per_s", "whitening_rows_per_s"}
    assert {"cpus", "packages", "platform"} <= set(result["provenance"])


def test_store_is_kept_in_the_folder_and_not_written_again(tmp_path: Path) -> None:
    size = bench_latents.BenchSize(rows=512, rows_per_shard=256)
    store = bench_latents.bench_store(storage_path(tmp_path), size)
    written = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    again = bench_latents.bench_store(storage_path(tmp_path), size)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == written
    assert again.moment_shape == store.moment_shape == (8, 32, 32)
    np.testing.assert_array_equal(store.rows_of_split("train"), np.arange(512))
    assert (store.read(0, 256)[:, 4:] >= 0).all()  # standard deviations


def test_store_is_cut_and_mixed_as_the_config_for_large_stores() -> None:
    large = yaml.safe_load((REPOSITORY / "configs/encode/large.yaml").read_text())
    assert large["store"]["rows_per_chunk"] == bench_latents.ROWS_PER_CHUNK
    assert (large["supertile"], large["mixing"]) == (bench_latents.SUPERTILE, bench_latents.MIXING)


def test_patches_are_grids_of_about_a_thousand_slides_at_full_size() -> None:
    patches = bench_latents.bench_patches(131_072)
    assert patches.num_rows == 131_072
    counts = np.unique(patches["slide_id"].to_numpy(), return_counts=True)[1]
    assert 950 < len(counts) < 1050
    places = zip(patches["slide_id"].to_pylist(), patches["x"].to_pylist(),
                 patches["y"].to_pylist(), strict=True)  # fmt: skip
    assert len(set(places)) == 131_072


def test_digest_knows_rows_and_not_their_order(tmp_path: Path) -> None:
    size = bench_latents.BenchSize(rows=256, rows_per_shard=256)
    rows = bench_latents.bench_store(storage_path(tmp_path), size).read(0, 256)
    assert rows_digest(rows) == rows_digest(rows[::-1].copy())
    assert rows_digest(rows) == (rows_digest(rows[:99]) + rows_digest(rows[99:])) % 2**64
    swapped = rows.copy()
    swapped[0, 0], swapped[1, 0] = rows[1, 0], rows[0, 0]  # the same values in other rows
    turned = rows.copy()
    turned[7] = rows[7, :, ::-1]  # the same values in another order
    assert len({rows_digest(rows), rows_digest(swapped), rows_digest(turned)}) == 3


def test_ratios_are_medians_of_rates_and_null_where_not_run() -> None:
    passes = {"ours": [Pass(1, 10, 0), Pass(9, 10, 0), Pass(2, 10, 0)], "other": [Pass(1, 2, 0)]}
    assert median_rate(passes, "ours") == 5.0
    assert ratio(passes, "ours", "other") == 2.5
    assert ratio(passes, "ours", "streaming") is None
    assert timed([3, 4]).rows == 7


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("rows=1000", "multiple of the batch, 256"),
        ("rounds=0", "give a number above zero"),
        ("num_lanes=many", "give a number above zero"),
        ("peers=/nowhere/python", "make bench-peers"),
        ("s3=/tmp/folder", "give s3://bucket/prefix"),
    ],
)
def test_bench_loader_refuses_options_that_it_cannot_use(
    option: str, message: str, tmp_path: Path
) -> None:
    options = {"rows": "rows=256", "shard": "shard=256", "folder": f"folder={tmp_path}"}
    options[option.partition("=")[0]] = option
    with pytest.raises(ConfigError, match=message):
        bench("loader", list(options.values()))


def test_peer_that_ends_is_reported() -> None:
    script = "tests/support/ports.py"  # no peer: it ends at once
    with (
        pytest.raises(ConfigError, match="ended without an answer"),
        peer_process(sys.executable, script, target="bench-peers") as peer,
    ):
        peer.ask(do="open")


def test_a_kept_store_that_is_damaged_is_not_measured(tmp_path: Path) -> None:
    size = bench_latents.BenchSize(rows=512, rows_per_shard=256)
    store: LatentStore = bench_latents.bench_store(storage_path(tmp_path), size)
    (Path(store.path.path) / "moments/c/1/0/0/0").unlink()
    with pytest.raises(Exception, match="shard is missing"):
        bench_latents.bench_store(storage_path(tmp_path), size)
