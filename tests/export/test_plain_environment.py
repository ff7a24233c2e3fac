"""An exported folder in an environment with diffusers alone: it opens, and draws what we draw."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from histodiff.cluster.site import NoRay, Site
from histodiff.config import parse_config
from histodiff.diffusion import EpsilonObjective, VObjective, sample
from histodiff.diffusion.objectives import EdmObjective
from histodiff.diffusion.samplers import DdimSampler
from histodiff.latents import Whitening
from histodiff.models.autoencoder import load_autoencoder
from histodiff.models.denoiser import Denoiser, load_denoiser, save_snapshot
from histodiff.models.diffusers_pipeline import diffusers_pipeline, pipeline_sigmas
from histodiff.workflows.export import ExportConfig, export
from histodiff.workflows.networks import snapshot_path
from tests.support.labelled_chain import make_chain

pytestmark = pytest.mark.export

PYTHON = Path(__file__).resolve().parents[2] / "build" / "export" / "bin" / "python"
STEPS, SEED, COUNT = 12, 3, 4
SCRIPT = """
import importlib.util, json, sys
import numpy, torch
folder, steps, seed, count, out = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
absent = [name for name in ("histodiff", "timm", "ray", "deepspeed", "pydantic")
          if importlib.util.find_spec(name) is None]
import diffusers
pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
pipeline.set_progress_bar_config(disable=True)
images = pipeline(batch_size=count, generator=torch.Generator().manual_seed(seed),
                  num_inference_steps=steps, output_type="np").images
numpy.save(out, images)
print(json.dumps({"absent": absent, "class": type(pipeline).__name__,
                  "diffusers": diffusers.__version__}))
"""
OBJECTIVES = [
    EdmObjective(type="edm"), VObjective(type="v"), EpsilonObjective(type="epsilon"),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _environment_is_there() -> None:
    assert PYTHON.is_file(), f"{PYTHON} is missing; run: make test-export"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    folder = tmp_path_factory.mktemp("chain")
    found = Site(root=str(folder / "runs"), ray=NoRay(type="none"), device="cpu")
    make_chain(found, folder / "images")
    return found


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda found: found.type)
def test_folder_opens_without_histodiff_and_draws_the_same(objective, site, tmp_path):
    place = snapshot_path(site.storage_root / "denoisers/toy/v1")
    toy = load_denoiser(place, device="cpu")
    config = toy.denoiser.config.model_copy(update={"objective": objective})
    denoiser = Denoiser(config, latent_shape=toy.latent_shape)
    generator = torch.Generator().manual_seed(1)
    for tensor in denoiser.parameters():
        tensor.data += 0.2 * torch.randn(tensor.shape, generator=generator)
    save_snapshot(place, denoiser, toy.info)
    values = {"folder": str(tmp_path / "out"), "license": "other", "steps": STEPS}
    export("denoisers/toy@v1", parse_config(ExportConfig, values, source="test"), site)

    done = subprocess.run(
        [PYTHON, "-I", "-c", SCRIPT, tmp_path / "out", str(STEPS), str(SEED), str(COUNT),
         tmp_path / "theirs.npy"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["absent"] == ["histodiff", "timm", "ray", "deepspeed", "pydantic"]
    assert said["class"] == "LDMPipeline"
    theirs = np.load(tmp_path / "theirs.npy")
    assert theirs.std() > 0.01
    np.testing.assert_allclose(theirs, _ours(site), rtol=0, atol=1e-4)


@torch.no_grad()
def _ours(site: Site):
    """Pictures of our DDIM from the noise and the levels of the pipeline, float (B, H, W, 3)."""
    found = load_denoiser(snapshot_path(site.storage_root / "denoisers/toy/v1"), device="cpu")
    autoencoder = load_autoencoder(site.storage_root / "autoencoders/toy/v1", device="cpu")
    sigmas = pipeline_sigmas(diffusers_pipeline(found, autoencoder), STEPS)
    noise = torch.randn((COUNT, *found.latent_shape), generator=torch.Generator().manual_seed(SEED))
    latents = sample(
        found.denoiser, sigmas=sigmas, sampler=DdimSampler(type="ddim"),
        noise_B=noise * (1 + 1 / sigmas[0].item() ** 2) ** 0.5,
        step_noise=lambda step: pytest.fail("DDIM draws no noise"),
    )  # fmt: skip
    raw = Whitening(found.whitening_mean, found.whitening_scale).invert(latents)
    decoded = autoencoder.network.decode(raw).sample
    return (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
