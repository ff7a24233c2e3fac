"""``bench sample`` as a command would run it, with as few samples as there are."""

from histodiff.workflows.bench import bench


def test_bench_sample_reports_every_field_and_both_loops_give_the_same_latents() -> None:
    result = bench("sample", ("device=cpu", "batch=1", "rounds=1", "threads=1"))
    ways = {"bare", "latents", "written"}
    assert set(result["images_per_s"]) == set(result["seconds"]) == ways
    assert all(rate > 0 for rate in result["images_per_s"].values())
    assert {len(seconds) for seconds in result["seconds"].values()} == {1}
    assert result["overhead_vs_bare_loop"] > -1
    assert result["written_vs_latents"] > -1
    assert result["latent_difference"] < 1e-4
    assert result["workload"]["steps"] == 18
    assert {"cpus", "packages", "platform"} <= set(result["provenance"])
