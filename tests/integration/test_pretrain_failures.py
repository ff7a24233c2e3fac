"""What happens to a run that goes wrong or is told to go: one process, the command itself."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from histodiff.artifacts import Artifact
from histodiff.cluster.site import Site
from histodiff.errors import Preempted, TrainingDiverged
from histodiff.pretraining import loader
from histodiff.pretraining.posterior import CleanAndNoise, posterior_draws
from histodiff.workflows.pretrain import command as pretrain_workflow
from histodiff.workflows.pretrain import pretrain
from tests.support.pretraining import finished_store, interrupted_gang, tiny_config

ROLL_BACK = {
    "action": "roll_back", "spike_factor": 5, "median_images": 48, "pass_over_images": 32,
}  # fmt: skip
BAD_STEP, BATCH = 6, 16


@pytest.fixture
def stored(site: Site) -> Site:
    finished_store(Path(site.root))
    return site


def column(artifact: Artifact, name: str, table: str = "metrics") -> list[float]:
    return pq.read_table(Path(artifact.path / f"{table}.parquet"))[name].to_pylist()


def spoiled(factor: float) -> Callable[..., CleanAndNoise]:
    """Draws whose batch number ``BAD_STEP`` is multiplied by ``factor``."""

    def draw(moments, indices, **options) -> CleanAndNoise:
        drawn = posterior_draws(moments, indices, **options)
        if options["purpose"] == "train" and int(indices[0]) // BATCH == BAD_STEP:
            return drawn._replace(clean_BCHW=drawn.clean_BCHW * factor)
        return drawn

    return draw


@pytest.mark.parametrize("factor", [math.nan, 1000.0], ids=["nan", "spike"])
def test_pretrain_bad_batch_is_passed_over_whatever_the_checkpoints(stored, monkeypatch, factor):
    monkeypatch.setattr(loader, "posterior_draws", spoiled(factor))
    often, rarely = [
        pretrain(
            tiny_config(
                f"every-{images}",
                train={"on_divergence": ROLL_BACK, "checkpoint_images": images, "log_images": 16},
            ),
            stored,
        )
        for images in (16, 96)
    ]
    assert column(often, "back_to_step", "rollbacks") == [BAD_STEP - 1]
    assert column(often, "first_batch", "rollbacks") == [BAD_STEP - 1]
    assert column(often, "last_batch", "rollbacks") == [BAD_STEP]
    assert column(often, "loss") == column(rarely, "loss")
    assert max(column(often, "loss")) < 5
    assert len(column(often, "loss")) == 12
    assert often.manifest.content_sha256 == rarely.manifest.content_sha256


def test_pretrain_rolled_back_and_interrupted_equals_undisturbed(stored, monkeypatch):
    monkeypatch.setattr(loader, "posterior_draws", spoiled(math.nan))
    train = {"on_divergence": ROLL_BACK, "checkpoint_images": 32}
    undisturbed = pretrain(tiny_config("undisturbed", train=train), stored)
    with monkeypatch.context() as patched:
        patched.setattr(pretrain_workflow, "run_gang", interrupted_gang)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_config("disturbed", train=train), stored)
    resumed = pretrain(tiny_config("disturbed", train=train), stored)
    assert resumed.manifest.content_sha256 == undisturbed.manifest.content_sha256


def test_pretrain_stops_by_default_and_after_too_many_rollbacks(stored, monkeypatch):
    monkeypatch.setattr(loader, "posterior_draws", spoiled(math.nan))
    with pytest.raises(TrainingDiverged) as caught:
        pretrain(tiny_config("stops"), stored)
    assert caught.value.step == BAD_STEP
    wild = {
        "optimizer": {"type": "adamw", "lr": 1e30, "clip": None},
        "on_divergence": {**ROLL_BACK, "max_rollbacks": 2},
    }
    with pytest.raises(TrainingDiverged):
        pretrain(tiny_config("wild", train=wild), stored)


def test_pretrain_sigterm_saves_first_and_the_command_resumes(stored, monkeypatch):
    undisturbed = pretrain(tiny_config("undisturbed"), stored)
    handler = signal.getsignal(signal.SIGTERM)
    run_gang = pretrain_workflow.run_gang

    def told_to_go(function, spec, *, report, **options):
        def terminate(news) -> None:
            report(news)
            if news.images_seen == 80:
                os.kill(os.getpid(), signal.SIGTERM)

        return run_gang(function, spec, report=terminate, **options)

    with monkeypatch.context() as patched:
        patched.setattr(pretrain_workflow, "run_gang", told_to_go)
        with pytest.raises(Preempted, match=r"after 96 images.*same command again"):
            pretrain(tiny_config("told"), stored)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert (Path(stored.root) / "denoisers/told/1/checkpoints/step-00000006/complete.json").exists()
    resumed = pretrain(tiny_config("told"), stored)
    assert resumed.manifest.content_sha256 == undisturbed.manifest.content_sha256


def test_pretrain_two_half_lives_give_two_snapshots(stored):
    config = tiny_config("both", train={"ema": {"half_lives_images": [64, 512]}})
    snapshots = Path(pretrain(config, stored).path) / "snapshots"
    alone = tiny_config("alone", train={"ema": {"half_lives_images": [512]}})
    expected = load_file(Path(pretrain(alone, stored).path) / "snapshots/last/weights.safetensors")
    found = load_file(snapshots / "last-512" / "weights.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert sorted(path.name for path in snapshots.iterdir()) == ["last", "last-512"]


def test_pretrain_activation_checkpointing_changes_no_loss(stored):
    plain = pretrain(tiny_config("plain"), stored)
    train = {"activation_checkpointing": True}
    assert column(pretrain(tiny_config("less", train=train), stored), "loss") == column(
        plain, "loss"
    )


@pytest.mark.parametrize("stage", range(4))
def test_pretrain_fp16_counts_the_step_that_overflows_and_goes_on(stored, monkeypatch, stage):
    monkeypatch.setattr(loader, "posterior_draws", spoiled(1000.0))
    train = {"precision": "fp16", "zero_stage": stage, "log_images": BATCH}
    artifact = pretrain(tiny_config(f"fp16-{stage}", train=train), stored)
    assert column(artifact, "skipped_steps") == [float(step == BAD_STEP) for step in range(12)]
    assert column(artifact, "grad_norm")[BAD_STEP] == math.inf
    assert max(column(artifact, "loss")[BAD_STEP + 1 :]) < 1.5


def test_pretrain_fp16_with_too_large_a_scale_stops(stored):
    train = {"precision": "fp16", "loss_scale": 1e12, "images": 640}
    with pytest.raises(TrainingDiverged):
        pretrain(tiny_config("stuck", train=train), stored)


def test_pretrain_goes_on_under_another_zero_stage(stored, monkeypatch):
    undisturbed = pretrain(tiny_config("undisturbed"), stored)
    with monkeypatch.context() as patched:
        patched.setattr(pretrain_workflow, "run_gang", interrupted_gang)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_config("moved", train={"zero_stage": 3}), stored)
    moved = pretrain(tiny_config("moved", train={"zero_stage": 0}), stored)
    assert column(moved, "loss") == pytest.approx(column(undisturbed, "loss"), rel=1e-6)
