"""Samples are the same bytes for any number of workers, and after any number of kills."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from histodiff.artifacts import Kind, Reference
from histodiff.cluster.session import ray_session
from histodiff.cluster.site import LocalRay, NoRay, Site
from histodiff.samples import finished_shards
from histodiff.workflows.guide import guide
from histodiff.workflows.synthesize import synthesize
from tests.support.labelled_chain import make_chain
from tests.support.labelled_configs import BUDGET, guide_config, synthesize_config

LOCAL = LocalRay(type="local", num_cpus=3)
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    make_chain(site_at(folder / "runs"), folder / "images")
    guide(guide_config(), site_at(folder / "runs"))
    return folder / "runs"


def site_at(root: Path, *, workers: int | None = None) -> Site:
    """In process where ``workers`` is None."""
    ray = NoRay(type="none") if workers is None else LOCAL
    return Site(root=str(root), ray=ray, device="cpu", sample_workers=workers or 1)


def config(**changes):
    return synthesize_config(
        name="spread", per_class=11, batch=3, shard_size=5,
        sampler={"type": "dpm_solver", "order": 2, "eta": 1.0},
        variation={
            "latents": "toy@v1", "budget": BUDGET, "sigmas": [0.5, 2.0],
            "stains": {"latents": "toy@v1", "splits": ["val"]},
        },
        **changes,
    )  # fmt: skip


def files_of(artifact) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(str(artifact.path / "shards")).iterdir()}


@pytest.mark.ray
def test_samples_of_one_and_three_workers_are_the_same_bytes(root, tmp_path):
    stores = {}
    with ray_session(LOCAL):
        for workers in (None, 1, 3):
            copy = tmp_path / f"of-{workers}"
            shutil.copytree(root, copy)
            stores[workers] = synthesize(config(), site_at(copy, workers=workers))
    alone, one, three = (files_of(stores[workers]) for workers in (None, 1, 3))
    assert len(alone) == 5
    assert alone == one == three
    assert len({store.manifest.content_sha256 for store in stores.values()}) == 1
    assert len({store.manifest.fingerprint for store in stores.values()}) == 1


def test_killed_twice_draws_no_written_shard_again_and_ends_with_the_same_bytes(root, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(root, copy)
    folder = site_at(copy).storage_root / Reference.of(Kind.SAMPLES, "killed", "v1").folder
    for batch, written in ((4, 1), (3, 2)):  # the batch that kills is in the next shard
        ended = start(copy, batch)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert len(finished_shards(folder)) == written
    assert start(copy, 0).returncode == 0
    drawn = [int(line) for line in (copy / "drawn.txt").read_text().split()]
    assert drawn == [0, 2, 4, 6, 4, 6, 8, 8, 10, 12, 14, 16, 18]
    whole = synthesize(
        synthesize_config(name="whole", batch=2, shard_size=4, per_class=10), site_at(copy)
    )
    killed = {path.name: path.read_bytes() for path in Path(str(folder / "shards")).iterdir()}
    assert killed == files_of(whole)


def start(root: Path, last: int) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.support.killed_synthesis", str(root), str(last)]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
