"""``bench train`` as a command would run it, with as few and as small steps as there are."""

import sys

import pytest

from histodiff.errors import ConfigError
from histodiff.workflows.bench import bench

SMALL = ("device=cpu", "batch=8", "rounds=2", "threads=1")
OURS_AND_BARE = {"ours", "engine", "engine_stage_0", "torch"}


@pytest.mark.filterwarnings("default")  # deepspeed's
def test_bench_train_reports_every_field_and_all_loops_see_the_same_losses() -> None:
    result = bench("train", SMALL)
    ratios = ("vs_plain_torch", "deepspeed_vs_torch", "deepspeed_stage_0_vs_torch")
    assert all(result[field] > 0 for field in (*ratios, "peak_flops_per_s"))
    assert result["overhead_vs_engine"] > -1
    assert result["vs_accelerate_loop"] is None
    assert "not measured" in result["accelerate"]
    for field in ("images_per_s", "mfu", "seconds"):
        assert set(result[field]) == OURS_AND_BARE
    assert {len(seconds) for seconds in result["seconds"].values()} == {2}
    assert 0 <= result["data_wait_share"] < 1
    assert result["attention"]["operations"]
    assert {"cpus", "packages", "platform"} <= set(result["provenance"])
    # Our loop does what the bare ones do, to the last bit with the same engine.
    assert result["loss_difference"]["engine"] == 0
    assert result["loss_difference"]["torch"] < 1e-5
    # Weights, gradients, two moments and an average are there at once; ZeRO-1 has masters too.
    state = 4 * result["parameters"]
    assert result["peak_bytes"]["torch"] > 5 * state
    assert result["peak_bytes"]["engine"] > result["peak_bytes"]["torch"]
    assert result["peak_bytes"]["accelerate"] is None


def test_bench_train_without_the_peers_packages_says_how_to_get_them() -> None:
    with pytest.raises(ConfigError, match="make bench-train-peers"):
        bench("train", [*SMALL, f"peers={sys.executable}x"])
