"""The command ``pretrain`` in process: results, interruption, resume, errors."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from histodiff.artifacts import Artifact
from histodiff.cluster.gang import run_gang
from histodiff.cluster.site import Site
from histodiff.models.denoiser import load_denoiser
from histodiff.pretraining.spec import TrainingNews
from histodiff.workflows import pretrain as pretrain_workflow
from histodiff.workflows.pretrain import pretrain
from tests.support.pretraining import finished_store, tiny_config

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def stored(site: Site) -> Site:
    finished_store(Path(site.root))
    return site


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    path = artifact.path / "snapshots" / "last"
    return load_denoiser(path, device="cpu").denoiser.state_dict()


def losses(artifact: Artifact) -> list[float]:
    return pq.read_table(Path(artifact.path / "metrics.parquet"))["loss"].to_pylist()


def test_pretrain_writes_snapshot_metrics_and_validation(stored):
    artifact = pretrain(tiny_config(snapshot_images=96), stored)
    loaded = load_denoiser(artifact.path / "snapshots" / "last", device="cpu")
    assert loaded.info.images_seen == 192
    assert loaded.latent_shape == (2, 4, 4)
    assert loaded.encoder_sha256 == artifact.manifest.contents["encoder_sha256"]
    metrics = pq.read_table(Path(artifact.path / "metrics.parquet"))
    assert metrics["images_seen"].to_pylist() == [32, 64, 96, 128, 160, 192]
    assert metrics["lr"].to_pylist()[-1] == pytest.approx(0.0, abs=1e-12)
    validation = pq.read_table(Path(artifact.path / "validation.parquet"))
    assert validation["images_seen"].to_pylist() == [64] * 3 + [128] * 3 + [192] * 3
    assert validation["loss"].to_pylist()[-1] < validation["loss"].to_pylist()[2]
    assert sorted(p.name for p in (artifact.path / "snapshots").iterdir()) == [
        "images-000000000096", "images-000000000192", "last",
    ]  # fmt: skip
    assert not any(name.startswith("checkpoints/") for name in artifact.manifest.files)
    assert pretrain(tiny_config(snapshot_images=96), stored).manifest == artifact.manifest


def test_pretrain_interrupted_and_repeated_equals_undisturbed(stored, monkeypatch):
    undisturbed = pretrain(tiny_config("undisturbed"), stored)

    def interrupted(function, spec, *, report, **options):
        def stop(news: TrainingNews) -> None:
            if news.images_seen == 96:
                raise KeyboardInterrupt

        return run_gang(function, spec, report=stop, **options)

    with monkeypatch.context() as patched:
        patched.setattr(pretrain_workflow, "run_gang", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_config("disturbed"), stored)
    resumed = pretrain(tiny_config("disturbed"), stored)
    assert losses(resumed) == losses(undisturbed)
    assert resumed.manifest.content_sha256 == undisturbed.manifest.content_sha256
    for name, tensor in weights(undisturbed).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
