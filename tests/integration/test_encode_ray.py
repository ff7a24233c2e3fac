"""Pools and ``encode`` on a real local Ray, with workers that are killed."""

from functools import partial
from pathlib import Path

import pytest
import ray

from histodiff.cluster.capacity import ActorResources
from histodiff.cluster.pool import Retries, run_encode_pool, run_pool
from histodiff.cluster.session import ray_session
from histodiff.cluster.site import ClusterRay, LocalRay, NoRay, Site
from histodiff.errors import ConfigError, TransientError
from histodiff.storage import StoragePath, storage_path
from histodiff.workflows.bench import bench
from histodiff.workflows.bench import encode as bench_encode
from histodiff.workflows.encode import command as workflow
from tests.support.encode_inputs import encode_config, write_inputs
from tests.support.encoders import DyingEncoder, ScrapedEncoder, load_convolution_encoder
from tests.support.ports import free_ports
from tests.support.workers import (
    CountedUnits,
    CountingReader,
    ListingEncoder,
    SquaringWorker,
    refuse_to_start,
    ten_parts,
)

pytestmark = pytest.mark.ray

AT_ONCE = Retries(count=2, backoff_seconds=0.0)


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    with ray_session(LocalRay(type="local", num_cpus=2)):
        yield


@pytest.fixture
def light_encoder(monkeypatch):
    """Actors that need not import diffusers; the real autoencoder has its own test."""
    monkeypatch.setattr(workflow, "load_autoencoder", load_convolution_encoder)


def squares(folder: Path, units, *, deaths=None, failures=None, workers=2):
    make = partial(SquaringWorker, folder, deaths=deaths or {}, failures=failures or {})
    pool = run_pool(make, units, num_workers=workers, retries=AT_ONCE)
    return {finished.unit: finished.record for finished in pool}


def test_pool_does_every_unit_though_workers_are_killed_and_fail(tmp_path):
    found = squares(tmp_path, range(7), deaths={1: 2, 3: 1}, failures={5: 2})
    assert found == {k: k * k for k in range(7)}
    assert len(list(tmp_path.iterdir())) == 7 + 2 + 1 + 2  # calls: one each, and the retries
    assert squares(tmp_path, []) == {}


def test_pool_asks_for_a_unit_when_a_worker_is_free(tmp_path):
    units = CountedUnits(30)
    make = partial(SquaringWorker, tmp_path, deaths={3: 1}, failures={5: 1})
    for number, _ in enumerate(run_pool(make, units, num_workers=2, retries=AT_ONCE)):
        assert units.asked <= number + 1 + 2 + 2  # done, at work, and the two that failed
    assert units.asked == 30


def test_pool_unit_that_kills_every_worker_escalates(tmp_path):
    with pytest.raises(TransientError, match="failed 3 times"):
        squares(tmp_path, [1], deaths={1: 99}, workers=1)


def test_pool_lasting_transient_error_escalates(tmp_path):
    with pytest.raises(TransientError, match="unit 8: throttled"):
        squares(tmp_path, [8], failures={8: 99})


def test_pool_other_errors_are_raised_as_they_were(tmp_path):
    with pytest.raises(ConfigError, match="unit -4: must not be negative"):
        squares(tmp_path, [1, -4], workers=1)
    with pytest.raises(ConfigError, match="worker: cannot be made"):
        list(run_pool(refuse_to_start, [1], num_workers=1))


def test_encode_pool_blocks_come_in_order_though_a_reader_is_killed(tmp_path):
    pool = run_encode_pool(
        partial(CountingReader, tmp_path, deadly=14),
        ListingEncoder,
        range(3),
        parts_of=ten_parts,
        num_readers=2,
        num_encoders=2,
        retries=AT_ONCE,
    )
    assert {done.unit: done.record for done in pool} == {k: ten_parts(k) for k in range(3)}
    assert (tmp_path / "read-14.2").exists()


def test_encode_pool_actors_without_a_place_keep_nobody_waiting(tmp_path):
    """Two CPUs have room for one or two readers of three, and one or two encoders of three."""
    pool = run_encode_pool(
        partial(CountingReader, tmp_path, deadly=None),
        ListingEncoder,
        range(5),
        parts_of=ten_parts,
        num_readers=3,
        num_encoders=3,
        reader_resources=ActorResources(num_cpus=0.7),
        encoder_resources=ActorResources(num_cpus=0.6),
    )
    assert {done.unit: done.record for done in pool} == {k: ten_parts(k) for k in range(5)}


@pytest.mark.slow
def test_bench_encode_reports_every_field(monkeypatch):
    small = {"AUTOENCODERS": ("tiny",), "ROUNDS": 1, "ROWS_PER_SHARD": 8, "ROWS_PER_CHUNK": 4}
    for name, value in {**small, "BUSY_BATCHES": 1}.items():
        monkeypatch.setattr(bench_encode, name, value)
    found = bench("encode", ["patches=20", "size=1024"])
    assert found["patches"] == 20
    for field in ("time_vs_sum_of_parts", "patches_per_s"):
        assert found[field]["tiny"] > 0
    (run,) = found["seconds"]["tiny"]
    assert min(run["wall"], run["decode"], run["encode"], run["write"]) > 0
    shares = found["shares_of_core_time"]["tiny"]
    parts = ("decode", "encode", "write", "slower_beside_others", "rest")
    assert sum(shares[part] for part in parts) == pytest.approx(1)
    with pytest.raises(ConfigError, match="at most 64 patches"):
        bench("encode", ["patches=65", "size=1024"])


def site_at(root: Path, **workers: int) -> Site:
    ray_config = LocalRay(type="local", num_cpus=2) if workers else NoRay(type="none")
    return Site(root=str(root), ray=ray_config, device="cpu", **workers)


def inputs_at(root: Path, images: Path) -> StoragePath:
    write_inputs(storage_path(root), images)
    return storage_path(root)


def test_encode_bytes_are_equal_in_process_with_one_worker_and_with_three(tmp_path, light_encoder):
    del light_encoder
    manifests = []
    for name, workers in (
        ("none", {}),
        ("one", {"encode_workers": 1, "reader_workers": 1}),
        ("three", {"encode_workers": 3, "reader_workers": 1}),
    ):
        inputs_at(tmp_path / name, tmp_path / "images")
        manifests.append(
            workflow.encode(encode_config(), site_at(tmp_path / name, **workers)).manifest
        )
    assert manifests[0].files == manifests[1].files == manifests[2].files
    assert len({manifest.content_sha256 for manifest in manifests}) == 1
    for manifest in manifests:
        assert manifest.provenance["encode_reading"]["amplification"] == 1.0


def test_encode_killed_encoder_leaves_the_same_bytes(tmp_path, monkeypatch, light_encoder):
    del light_encoder
    inputs_at(tmp_path / "whole", tmp_path / "images")
    expected = workflow.encode(encode_config(), site_at(tmp_path / "whole")).manifest
    inputs_at(tmp_path / "killed", tmp_path / "images")
    marker = tmp_path / "marker"
    monkeypatch.setattr(workflow, "ShardEncoder", partial(DyingEncoder, marker=marker))
    site = site_at(tmp_path / "killed", encode_workers=2, reader_workers=1)
    manifest = workflow.encode(encode_config(), site).manifest
    assert marker.exists()
    assert manifest.files == expected.files
    assert manifest.content_sha256 == expected.content_sha256


def test_encode_lists_all_its_processes_for_prometheus(tmp_path, monkeypatch, light_encoder):
    del light_encoder
    inputs_at(tmp_path, tmp_path / "images")
    (port,) = free_ports(1)
    monkeypatch.setattr(workflow, "ShardEncoder", partial(ScrapedEncoder, port=port))
    site = site_at(tmp_path, encode_workers=1, reader_workers=1, metrics_port=port)
    assert workflow.encode(encode_config(), site).manifest.contents["quarantined"] == 0


def test_encode_asking_for_more_than_the_cluster_has_names_the_counts(tmp_path, light_encoder):
    del light_encoder
    inputs_at(tmp_path, tmp_path / "images")
    site = Site(
        root=str(tmp_path), ray=ClusterRay(type="cluster"), device="cpu",
        encode_workers=2, reader_workers=1,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="reader_workers=1 and encode_workers=2 need 3 CPUs"):
        workflow.encode(encode_config(), site)
    fits = site.model_copy(update={"encode_workers": 1})
    assert workflow.encode(encode_config(), fits).manifest.contents["quarantined"] == 0


def test_session_that_cannot_join_a_cluster_names_the_fix():
    ray.shutdown()  # a session uses what is there
    with (
        pytest.raises(ConfigError, match=r"127\.0\.0\.1:1'.*ray start --head"),
        ray_session(ClusterRay(type="cluster", address="127.0.0.1:1")),
    ):
        pass
