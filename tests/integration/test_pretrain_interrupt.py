"""Ctrl-C and SIGTERM while two ranks train under a Ray of the command's own."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from histodiff.cluster.gang import run_gang
from histodiff.cluster.site import LocalRay, RankRange, Site
from histodiff.errors import Preempted
from histodiff.pretraining.spec import TrainingProgress
from histodiff.workflows.pretrain import PretrainConfig, pretrain
from histodiff.workflows.pretrain import command as pretrain_workflow
from tests.support.pretraining import finished_store, tiny_config

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


@pytest.mark.slow
def test_pretrain_ctrl_c_stops_the_ranks_and_the_command_resumes(site: Site, monkeypatch):
    def interrupted(function: Any, spec: Any, *, report: Any, **options: Any) -> Any:
        def press(news: TrainingProgress) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        return run_gang(function, spec, report=press, **options)

    finished_store(Path(site.root))
    together = site.model_copy(update={"ray": LocalRay(type="local", num_cpus=2), "ranks": 2})
    with monkeypatch.context() as patched:
        patched.setattr(pretrain_workflow, "run_gang", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_config(), together)
    assert not list(Path(site.root).rglob("driver/*.json")), "its lease was not given back"
    require_curve_of_one_rank(together, site)


@pytest.mark.slow
def test_pretrain_sigterm_to_the_driver_saves_and_another_number_of_ranks_resumes(
    site: Site, monkeypatch
):
    def told_to_go(function: Any, spec: Any, *, report: Any, **options: Any) -> Any:
        def terminate(news: TrainingProgress) -> None:
            if not told:
                told.append(news.images_seen)
                os.kill(os.getpid(), signal.SIGTERM)

        return run_gang(function, spec, report=terminate, **options)

    told: list[int] = []
    finished_store(Path(site.root))
    together = site.model_copy(
        update={"ray": LocalRay(type="local", num_cpus=2), "ranks": RankRange(min=1, max=2)}
    )
    with monkeypatch.context() as patched:
        patched.setattr(pretrain_workflow, "run_gang", told_to_go)
        with pytest.raises(Preempted) as caught:
            pretrain(long_config(), together)
    step = caught.value.images_seen // 16
    newest = f"denoisers/tiny/1/checkpoints/step-{step:08d}/complete.json"
    record = json.loads((Path(site.root) / newest).read_bytes())
    assert (told[0] <= caught.value.images_seen, record["world_size"]) == (True, 2)
    require_curve_of_one_rank(site, site, config=long_config)


def long_config(name: str = "tiny") -> PretrainConfig:
    """200 steps: still under way when the ranks hear of it, and short enough that the rounding of
    another number of ranks has not grown beyond the tolerance (after 600 steps it is 4 %)."""
    return tiny_config(name, train={"images": 3200, "checkpoint_images": 1024})


def require_curve_of_one_rank(
    together: Site, alone: Site, *, config: Callable[..., PretrainConfig] = tiny_config
) -> None:
    losses = [
        pq.read_table(Path(pretrain(config, here).path) / "metrics.parquet")["loss"].to_pylist()
        for config, here in ((config(), together), (config("alone"), alone))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
