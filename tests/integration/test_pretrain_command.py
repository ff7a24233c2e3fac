"""The command ``pretrain`` in process: results, interruption, resume, errors."""

from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch._dynamo.utils import counters

from histodiff.artifacts import Artifact
from histodiff.cluster.site import RankRange, Site
from histodiff.config import parse_config
from histodiff.errors import ArtifactError, ConfigError, TrainingDiverged
from histodiff.latents import LatentStore, mixture_whitening
from histodiff.models.denoiser import load_denoiser
from histodiff.models.pretrained import UNetSource, source_sha256
from histodiff.models.unet import create_unet
from histodiff.workflows.pretrain import PretrainConfig, estimate, pretrain
from histodiff.workflows.pretrain import command as pretrain_workflow
from tests.support.latent_stores import SWAPPED
from tests.support.pretraining import finished_store, interrupted_gang, tiny_config

UNET = tiny_config().denoiser.network.model_dump()
DIT = {
    "type": "dit", "token_side": 2, "width": 16, "depth": 2, "num_heads": 2,
    "modulation": "shared", "positions": "rotary", "qk_norm": "rms", "activation": "swiglu",
}  # fmt: skip


@pytest.fixture
def stored(site: Site) -> Site:
    finished_store(Path(site.root))
    return site


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    path = artifact.path / "snapshots" / "last"
    return load_denoiser(path, device="cpu").denoiser.state_dict()


def losses(artifact: Artifact) -> list[float]:
    return pq.read_table(Path(artifact.path / "metrics.parquet"))["loss"].to_pylist()


def validation_losses(artifact: Artifact) -> list[float]:
    return pq.read_table(Path(artifact.path / "validation.parquet"))["loss"].to_pylist()


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


def test_pretrain_scaled_by_a_power_says_so_in_its_snapshot(stored):
    scaling = {"type": "power", "power": 0.5}
    short = {"images": 32, "checkpoint_images": 32}
    artifact = pretrain(tiny_config("scaled", train=short, scaling=scaling), stored)
    info = load_denoiser(artifact.path / "snapshots" / "last", device="cpu").info
    store = LatentStore.open(stored.storage_root / "latents/tiny/1")
    assert info.whitening_rule == "power 0.5"
    assert info.whitening_scale == mixture_whitening([store], [1.0], power=0.5).scale


def test_pretrain_starts_from_a_saved_unet_and_learns_its_uncertainty(stored, tmp_path):
    config = tiny_config("started", train={"images": 32, "zero_stage": 3}, validation=None)
    objective = {"type": "edm", "weighting": {"type": "uncertainty", "channels": 8}}
    values = config.model_dump() | {"init": {"source": str(tmp_path / "unet")}}
    values["denoiser"]["objective"] = objective
    started = PretrainConfig.model_validate(values)
    with pytest.raises(ConfigError, match=r"init\.source"):
        pretrain(started, stored)
    unet = create_unet(config.denoiser.network, latent_shape=(2, 4, 4), device=torch.device("cpu"))
    torch.nn.init.constant_(unet.conv_out.bias, 3.0)
    unet.save_pretrained(tmp_path / "unet")
    artifact = pretrain(started, stored)
    found, contents = weights(artifact), artifact.manifest.contents
    assert found["network.conv_out.bias"].tolist() == pytest.approx([3.0, 3.0], abs=0.1)
    assert found["uncertainty.weights_K"].any()
    assert contents["init_sha256"] == source_sha256(UNetSource(source=str(tmp_path / "unet")))
    assert contents["attention"]["kernel"] == "flash"
    assert contents["training_flops_per_image"] > 2 * contents["forward_flops_per_image"] > 0


@pytest.mark.parametrize(
    "denoiser",
    [
        {"network": UNET},
        {"network": UNET, "gaussian_start": {}},
        {"network": DIT, "self_conditioning": {"probability": 0.5}},
    ],
    ids=["unet", "unet on a Gaussian", "self-conditioned transformer"],
)
def test_pretrain_interrupted_and_repeated_equals_undisturbed(stored, monkeypatch, denoiser):
    config = partial(tiny_config, denoiser={**denoiser, "objective": {"type": "edm"}})
    undisturbed = pretrain(config("undisturbed"), stored)

    with monkeypatch.context() as patched:
        patched.setattr(pretrain_workflow, "run_gang", interrupted_gang)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config("disturbed"), stored)
    resumed = pretrain(config("disturbed"), stored)
    assert losses(resumed) == losses(undisturbed)
    assert resumed.manifest.content_sha256 == undisturbed.manifest.content_sha256
    for name, tensor in weights(undisturbed).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


def test_pretrain_of_a_transformer_checkpoints_activations_and_shards(stored):
    train = {"images": 32, "zero_stage": 3}
    shown = {"self_conditioning": {"probability": 0.5}}
    denoiser = {"network": DIT, "objective": {"type": "flow"}, **shown}
    plain = pretrain(tiny_config("plain", train=train, denoiser=denoiser), stored)
    train |= {"activation_checkpointing": True, "micro_batch": 4}
    again = pretrain(tiny_config("again", train=train, denoiser=denoiser), stored)
    assert losses(again) == pytest.approx(losses(plain), rel=1e-5)
    assert plain.manifest.contents["attention"]["num_modules"] == 2


def test_pretrain_aligned_with_a_finished_denoiser_resumes_and_depends_on_it(stored, monkeypatch):
    short = {"images": 96, "checkpoint_images": 32}
    plain = pretrain(tiny_config("plain", train=short), stored)
    target = {"denoiser": "plain@1", "layer": "mid_block", "sigma": 0.1}
    alignment = {"weight": 0.5, "layer": "mid_block", "width": 8, "target": target}
    config = partial(tiny_config, train={**short, "zero_stage": 3}, alignment=alignment)
    aligned = pretrain(config("aligned"), stored)
    assert "denoisers/plain@1" in aligned.manifest.inputs
    assert weights(aligned).keys() == weights(plain).keys()
    assert losses(aligned)[-1] != pytest.approx(losses(plain)[-1], rel=1e-4)
    with monkeypatch.context() as patched:
        patched.setattr(pretrain_workflow, "run_gang", interrupted_gang)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config("disturbed"), stored)
    resumed = pretrain(config("disturbed"), stored)
    assert resumed.manifest.content_sha256 == aligned.manifest.content_sha256


def test_pretrain_of_a_transformer_from_a_saved_unet_is_refused():
    denoiser = {"network": DIT, "objective": {"type": "edm"}}
    values = tiny_config().model_dump() | {"denoiser": denoiser, "init": {"source": "unet"}}
    with pytest.raises(ConfigError, match=r"type is 'dit'; set init: null"):
        parse_config(PretrainConfig, values, source="test")


def test_pretrain_diverging_names_step_and_last_checkpoint(stored):
    wild = {"optimizer": {"type": "adamw", "lr": 1e30, "clip": None}, "checkpoint_images": 16}
    with pytest.raises(TrainingDiverged) as caught:
        pretrain(tiny_config("wild", train=wild), stored)
    assert caught.value.checkpoint is not None
    assert caught.value.checkpoint.endswith(f"checkpoints/step-{caught.value.step:08d}")


@pytest.mark.parametrize(
    ("ranks", "problem"),
    [
        (3, "train.batch=16"),
        (8, "num_lanes=4"),
        (2, "ray.type=local"),
        (RankRange(min=1, max=4), "world size 3"),
        (RankRange(min=1, max=2), "ray.type=local"),
    ],
)
def test_pretrain_unfit_ranks_are_refused_with_the_fix(stored, ranks, problem):
    with pytest.raises(ConfigError, match=problem):
        pretrain(tiny_config(), stored.model_copy(update={"ranks": ranks}))


def test_pretrain_stores_of_two_scales_are_refused_before_anything_is_begun(stored):
    finished_store(Path(stored.root), "coarse", mpp=1.0)
    both = [{"latents": "tiny@1"}, {"latents": "coarse@1"}]
    with pytest.raises(ArtifactError, match=r"tiny@1 has 0\.5.*coarse@1 has 1\.0.*one scale"):
        pretrain(tiny_config(stores=both), stored)
    assert pretrain(tiny_config(), stored).manifest.contents  # the same version, mended


def test_pretrain_stores_of_which_one_knows_its_symmetries_are_refused(stored):
    finished_store(Path(stored.root), "turned", symmetries=SWAPPED)
    both = [{"latents": "tiny@1"}, {"latents": "turned@1"}]
    with pytest.raises(ArtifactError, match=r"symmetries \(.*tiny@1 has None, .*; encode those"):
        pretrain(tiny_config(stores=both), stored)


def test_estimate_counts_without_computing(stored):
    assert estimate(tiny_config(), stored) == {
        "images": 192, "steps": 12, "ranks": 1, "micro_batch": 8, "rows": 128,
    }  # fmt: skip
    assert not (Path(stored.root) / "denoisers").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2])
def test_pretrain_compiled_trains_as_eager(stored, stage):
    train = {"images": 96, "zero_stage": stage}
    eager = pretrain(tiny_config("eager", train=train), stored)
    torch.compiler.reset()  # else the graph of another stage may serve
    counters.clear()
    compiled = pretrain(tiny_config("compiled", train={**train, "compile": True}), stored)
    assert counters["stats"]["unique_graphs"] > 0
    assert losses(compiled) == pytest.approx(losses(eager), rel=1e-4)
    assert validation_losses(compiled) == pytest.approx(validation_losses(eager), rel=1e-4)
    assert weights(compiled).keys() == weights(eager).keys()
