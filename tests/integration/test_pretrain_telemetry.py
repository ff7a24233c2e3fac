"""What ``pretrain`` leaves for those who watch: curves, sample grids, a status; same numbers."""

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from histodiff.artifacts import Artifact
from histodiff.cluster.site import Site
from histodiff.diffusion import KarrasSchedule, noise_levels
from histodiff.errors import ConfigError
from histodiff.latents import Whitening
from histodiff.models.autoencoder import (
    Autoencoder,
    KlArchitecture,
    create_network,
    load_autoencoder,
    save_autoencoder,
)
from histodiff.models.denoiser import load_denoiser
from histodiff.runtime import generator_for
from histodiff.storage import storage_path
from histodiff.workflows.inspect import described, inspect
from histodiff.workflows.pretrain import command as pretrain_workflow
from histodiff.workflows.pretrain import pretrain
from histodiff.workflows.report.training import pretraining
from tests.support.event_files import points
from tests.support.pretraining import finished_store, interrupted_gang, tiny_config


@pytest.fixture
def stored(site: Site) -> Site:
    finished_store(Path(site.root))
    return site


def interrupted(config, site, monkeypatch) -> None:
    """Trains for six steps, with a checkpoint after four."""
    with monkeypatch.context() as patched:
        patched.setattr(pretrain_workflow, "run_gang", interrupted_gang)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, site)


def table(artifact: Artifact, name: str) -> dict[str, list[float]]:
    return pq.read_table(Path(artifact.path / name)).to_pydict()


def grids(artifact: Artifact) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (artifact.path / "previews").iterdir()}


def with_autoencoder(site: Site) -> None:
    """Gives the store an autoencoder: two latent channels, twice the side in pixels."""
    architecture = KlArchitecture(
        type="kl",
        channels=(8, 8),
        latent_channels=2,
        blocks_per_level=1,
        norm_groups=4,
        mid_attention=False,
    )
    torch.manual_seed(3)
    path = storage_path(site.root) / "autoencoders" / "small" / "1"
    save_autoencoder(path, Autoencoder(create_network(architecture)))
    store = Path(site.root) / "latents" / "tiny" / "1" / "manifest.json"
    of_store = json.loads(store.read_text())
    manifest = {**of_store, "kind": "autoencoders", "name": "small", "files": {}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    store.write_text(json.dumps({**of_store, "inputs": {"autoencoders/small@1": "small"}}))


def heun_by_hand(denoise, noise, sigmas):
    """Karras et al. 2022, Algorithm 1."""
    x = noise * sigmas[0]
    for here, there in pairwise(sigmas):
        slope = (x - denoise(x, torch.full((len(x),), here))) / here
        ahead = x + (there - here) * slope
        if there > 0:
            second = (ahead - denoise(ahead, torch.full((len(x),), there))) / there
            ahead = x + (there - here) * (slope + second) / 2
        x = ahead
    return x


def test_previews_change_no_number_and_survive_an_interruption(stored, monkeypatch):
    plain = pretrain(tiny_config("plain", preview_images=0), stored)
    shown = pretrain(tiny_config("shown", preview_images=64), stored)
    interrupted(tiny_config("cut", preview_images=64), stored, monkeypatch)
    cut = pretrain(tiny_config("cut", preview_images=64), stored)
    assert not (plain.path / "previews").exists()
    assert sorted(grids(shown)) == [f"images-{clock:012d}.png" for clock in (64, 128, 192)]
    assert len(set(grids(shown).values())) == 3
    assert grids(cut) == grids(shown)
    for name in ("metrics.parquet", "validation.parquet"):
        assert table(shown, name) == table(plain, name)
    assert shown.manifest.content_sha256 == plain.manifest.content_sha256
    assert all(f"previews/{name}" in shown.manifest.files for name in grids(shown))


def test_measured_previews_change_no_number_and_no_grid(stored):
    with_autoencoder(stored)
    shown = pretrain(tiny_config("shown", preview_images=96), stored)
    quality = {"extractor": {"type": "random_features", "input_px": 16}, "samples": 40}
    measured = pretrain(tiny_config("measured", preview_images=96, preview_quality=quality), stored)
    assert measured.manifest.content_sha256 == shown.manifest.content_sha256
    files = grids(measured)
    assert {name: data for name, data in files.items() if name.endswith("png")} == grids(shown)
    found = [json.loads(files[f"images-{clock:012d}.json"]) for clock in (96, 192)]
    assert [one["images_seen"] for one in found] == [96, 192]
    assert found[0]["num_images"] == 40
    assert found[0]["kernel_distance"] != found[1]["kernel_distance"]
    assert found[0]["extractor_sha256"] == found[1]["extractor_sha256"]
    curve = pretraining(measured).pictures[-1]
    assert "Kernel distance" in curve.caption


def test_preview_quality_without_an_autoencoder_is_refused_before_training(stored):
    quality = {"extractor": {"type": "random_features"}}
    with pytest.raises(ConfigError, match="no pixels to measure"):
        pretrain(tiny_config("none", preview_images=96, preview_quality=quality), stored)


def test_preview_quality_without_previews_is_refused():
    quality = {"extractor": {"type": "random_features"}}
    with pytest.raises(ValueError, match="preview_images and validation"):
        tiny_config("none", preview_quality=quality)


def test_last_preview_is_the_last_average_decoded(stored):
    with_autoencoder(stored)
    artifact = pretrain(tiny_config("decoded", preview_images=96), stored)
    loaded = load_denoiser(artifact.path / "snapshots" / "last", device="cpu")
    noise = [
        generator_for(5, "preview", n).standard_normal((2, 4, 4), np.float32) for n in range(16)
    ]
    schedule = KarrasSchedule(type="karras", steps=18)
    latents = heun_by_hand(
        loaded.denoiser,
        torch.from_numpy(np.stack(noise)),
        noise_levels(schedule, loaded.denoiser.preconditioning).tolist(),
    )
    autoencoder = load_autoencoder(
        storage_path(stored.root) / "autoencoders" / "small" / "1", device="cpu"
    )
    whitening = Whitening(loaded.whitening_mean, loaded.whitening_scale)
    pixels = autoencoder.decode(whitening.invert(latents)).permute(0, 2, 3, 1).numpy()
    found = np.asarray(Image.open(io.BytesIO(grids(artifact)["images-000000000192.png"])))
    assert found.shape == (32, 32, 3)
    for number, expected in enumerate(pixels):
        row, column = divmod(number, 4)
        part = found[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert np.abs(part.astype(int) - expected.astype(int)).max() <= 1


def test_curves_are_the_tables_and_a_resumed_run_doubles_no_point(stored, monkeypatch):
    config = tiny_config("curves", train={"log_images": 16})
    peak = stored.model_copy(update={"peak_flops": 1e12})
    interrupted(config, peak, monkeypatch)
    before = points(Path(peak.root) / "denoisers/curves/1/tensorboard")
    assert max(clock for _, clock, _ in before) == 96  # two steps beyond the checkpoint
    artifact = pretrain(config, peak)
    found = points(Path(artifact.path / "tensorboard"))
    assert len({(name, clock) for name, clock, _ in found}) == len(found)
    metrics, validation = table(artifact, "metrics.parquet"), table(artifact, "validation.parquet")
    for name in ("loss", "grad_norm"):
        curve = {clock: value for curve, clock, value in found if curve == f"train/{name}"}
        assert curve == pytest.approx(dict(zip(metrics["images_seen"], metrics[name], strict=True)))
    for name in ("images_per_second", "data_wait_share", "peak_memory_bytes", "mfu"):
        clocks = [clock for curve, clock, _ in found if curve == f"train/{name}"]
        assert sorted(clocks) == metrics["images_seen"]
    losses = sorted(value for curve, _, value in found if curve.startswith("validation/"))
    assert losses == pytest.approx(sorted(validation["loss"]))
    assert any(name.startswith("tensorboard/") for name in artifact.manifest.files)


def test_inspect_of_an_unfinished_run_says_where_it_is(stored, monkeypatch):
    config = tiny_config("live")
    interrupted(config, stored, monkeypatch)
    facts = inspect("denoisers/live@1", stored)
    live = facts["live"]
    assert (live["step"], live["images_seen"], live["images_total"]) == (6, 96, 192)
    assert (live["checkpoint_step"], live["ranks"]) == (4, 1)
    assert live["loss"] > 0
    assert live["eta_seconds"] == pytest.approx((192 - 96) / live["images_per_second"])
    assert live["mfu"] is None
    assert "peak_flops" in live["mfu_note"]
    assert 0 <= live["age_seconds"] < 600
    for shown in ("images seen  96 of 192", "checkpoint   of step 4", "ranks        1", "ETA "):
        assert shown in described(facts)
    pretrain(config, stored)
    assert "live" not in inspect("denoisers/live@1", stored)
