"""Ctrl-C while two ranks train under a Ray of the command's own."""

import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from histodiff.cluster.gang import run_gang
from histodiff.cluster.site import LocalRay, Site
from histodiff.pretraining.spec import TrainingNews
from histodiff.workflows import pretrain as pretrain_workflow
from histodiff.workflows.pretrain import pretrain
from tests.support.pretraining import finished_store, tiny_config

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


def test_pretrain_ctrl_c_stops_the_ranks_and_the_command_resumes(site: Site, monkeypatch):
    def interrupted(function: Any, spec: Any, *, report: Any, **options: Any) -> Any:
        def press(news: TrainingNews) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        return run_gang(function, spec, report=press, **options)

    finished_store(Path(site.root))
    together = site.model_copy(update={"ray": LocalRay(type="local", num_cpus=2), "ranks": 2})
    with monkeypatch.context() as patched:
        patched.setattr(pretrain_workflow, "run_gang", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_config(), together)
    assert not list(Path(site.root).rglob("driver/*.json")), "its lease was not given back"
    losses = [
        pq.read_table(Path(pretrain(config, here).path) / "metrics.parquet")["loss"].to_pylist()
        for config, here in ((tiny_config(), together), (tiny_config("alone"), site))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
