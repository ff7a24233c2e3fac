"""Two gloo ranks under Ray Train: as one rank, and as undisturbed when one is killed."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from histodiff.artifacts import Artifact
from histodiff.cluster.gang import run_gang
from histodiff.cluster.session import ray_session
from histodiff.cluster.site import LocalRay, NoRay, Site
from histodiff.workflows.pretrain import command as pretrain_workflow
from histodiff.workflows.pretrain import pretrain
from tests.support.pretraining import finished_store, killed_once, tiny_config

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with two ranks and a Ray that serves the whole file."""
    root = tmp_path_factory.mktemp("runs")
    finished_store(root)
    ray_config = LocalRay(type="local", num_cpus=2)
    with ray_session(ray_config):
        yield Site(root=str(root), ray=ray_config, device="cpu", ranks=2)


@pytest.fixture(scope="module")
def undisturbed(two_ranks: Site) -> Artifact:
    return pretrain(tiny_config("undisturbed"), two_ranks)


def column(artifact: Artifact, table: str, name: str) -> list[float]:
    return pq.read_table(Path(artifact.path / table))[name].to_pylist()


def test_pretrain_two_ranks_give_the_curve_of_one(two_ranks, undisturbed):
    alone = two_ranks.model_copy(update={"ray": NoRay(type="none"), "ranks": 1})
    single = pretrain(tiny_config("single"), alone)
    for table in ("metrics.parquet", "validation.parquet"):
        together = column(undisturbed, table, "loss")
        assert together == pytest.approx(column(single, table, "loss"), rel=1e-4)


def test_pretrain_killed_rank_restarts_the_gang_and_loss_is_the_same(
    two_ranks, undisturbed, monkeypatch
):
    def with_kill(function, spec, **options):
        del function
        return run_gang(killed_once, spec, **options)

    monkeypatch.setattr(pretrain_workflow, "run_gang", with_kill)
    killed = pretrain(tiny_config("killed"), two_ranks)
    assert (Path(killed.path) / "scratch" / "killed").exists()
    for table in ("metrics.parquet", "validation.parquet"):
        expected = column(undisturbed, table, "loss")
        assert column(killed, table, "loss") == pytest.approx(expected, rel=1e-6)
