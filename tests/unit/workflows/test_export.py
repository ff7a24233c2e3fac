"""``export``: the folder, its card, and what cannot be exported in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from PIL import Image

from histodiff.artifacts import Kind, Reference
from histodiff.cli.app import app
from histodiff.config import parse_config
from histodiff.errors import ArtifactError, ConfigError
from histodiff.models.denoiser import load_denoiser, save_snapshot
from histodiff.workflows.export import ExportConfig, export
from histodiff.workflows.networks import snapshot_path
from tests.support.labelled_chain import make_autoencoder


def config(folder: Path, **changes: object) -> ExportConfig:
    values = {"folder": str(folder), "license": "cc-by-4.0", "steps": 6} | changes
    return parse_config(ExportConfig, values, source="test")


@pytest.fixture
def trained(encoded):
    """The chain with a denoiser that draws something: its last convolution is not zero."""
    path = snapshot_path(encoded.storage_root / Reference.of(Kind.DENOISERS, "toy", "v1").folder)
    loaded = load_denoiser(path, device="cpu")
    generator = torch.Generator().manual_seed(0)
    state = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in loaded.denoiser.state_dict().items()
    }
    save_snapshot(path, loaded.denoiser, loaded.info, state=state)
    return encoded


def test_export_writes_a_folder_that_diffusers_opens_and_draws_from(trained, tmp_path):
    found = export("denoisers/toy@v1", config(tmp_path / "out"), trained)
    assert found.largest_difference < 1e-4
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        batch_size=16, generator=torch.Generator().manual_seed(0), num_inference_steps=6,
        output_type="np",
    ).images  # fmt: skip
    with Image.open(tmp_path / "out" / "samples.png") as picture:
        grid = np.asarray(picture)
    assert grid.shape == (4 * 32, 4 * 32, 3)
    np.testing.assert_allclose(grid[32:64, 64:96] / 255, drawn[4 + 2], atol=1.5 / 255)


def test_export_card_says_what_the_model_is_and_where_from(trained, tmp_path):
    export("denoisers/toy@v1", config(tmp_path / "out"), trained)
    text = (tmp_path / "out" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["license"] == "cc-by-4.0"
    assert about["library_name"] == "diffusers"
    assert about["pipeline_tag"] == "unconditional-image-generation"
    latents = trained.storage_root / Reference.of(Kind.LATENTS, "toy", "v1").folder
    manifest = json.loads((latents / "manifest.json").read_text())
    assert manifest["contents"]["encoder_sha256"] in body
    for parent in ("latents/toy@v1", "patches/toy@v1", "autoencoders/toy@v1"):
        assert f"| {parent} | `" in body
    assert manifest["fingerprint"] in body
    assert "| images seen in training | 0 |" in body
    assert "32 px at 1 um/px" in body
    assert "![16 samples of seed 0, 6 steps, not selected](samples.png)" in body
    assert "Nothing is recorded." in body


def test_export_card_lists_the_measures_of_the_manifests(trained, tmp_path):
    place = trained.storage_root / Reference.of(Kind.AUTOENCODERS, "toy", "v1").folder
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["contents"] |= {"psnr_db": 23.456, "parameters": 7, "quality": {"kid": 0.0123}}
    (place / "manifest.json").write_text(json.dumps(manifest))
    export("denoisers/toy@v1", config(tmp_path / "out"), trained)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| autoencoders/toy@v1 | psnr_db | 23.46 |" in text
    assert "| autoencoders/toy@v1 | quality.kid | 0.0123 |" in text
    assert "parameters" not in text


def test_export_again_writes_the_same_and_anything_else_is_not_overwritten(trained, tmp_path):
    folder = tmp_path / "out"

    def contents():
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    export("denoisers/toy@v1", config(folder), trained)
    first = contents()
    export("denoisers/toy@v1", config(folder), trained)
    assert contents() == first
    make_autoencoder(trained, seed=0, name="copy")
    with pytest.raises(ConfigError, match="holds other files; choose an empty one"):
        export("denoisers/toy@v1", config(folder, autoencoder="copy@v1"), trained)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        export("denoisers/toy@v1", config(tmp_path / "other"), trained)


def test_export_with_an_autoencoder_of_another_encoder_is_refused(trained, tmp_path):
    make_autoencoder(trained, seed=1, name="other")
    with pytest.raises(ArtifactError, match="use artifacts made with one autoencoder"):
        export("denoisers/toy@v1", config(tmp_path / "out", autoencoder="other@v1"), trained)


def test_export_of_no_denoiser_is_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match="is one of patches, no denoiser"):
        export("patches/toy@v1", config(tmp_path / "out"), trained)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["folder=F"], "license"),
        (["license=cc-by-4.0"], "folder"),
        (["folder=F", "license=Creative Commons"], "as the Hugging Face hub writes it"),
        (["folder=F", "license=mit", "steps=1001"], "at most 1000"),
    ],
)
def test_export_command_with_bad_options_is_one_line(options, message, trained, tmp_path, capsys):
    options = [item.replace("F", str(tmp_path / "out"), 1) if item[0] == "f" else item
               for item in options]  # fmt: skip
    words = ["export", "denoisers/toy@v1", *options, f"site.root={trained.root}"]
    assert app(words, standalone_mode=False) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_export_of_a_folder_finds_its_autoencoder_beside_it(trained, tmp_path):
    place = trained.storage_root / "denoisers/toy/v1"
    elsewhere = trained.model_copy(update={"root": str(tmp_path / "elsewhere")})
    found = export(str(place), config(tmp_path / "out"), elsewhere)
    assert found.autoencoder == "autoencoders/toy@v1"
    assert "| patches/toy@v1 |" in (tmp_path / "out" / "README.md").read_text()


def test_export_command_prints_the_folder(trained, tmp_path, capsys):
    words = ["export", "denoisers/toy@v1", f"folder={tmp_path / 'out'}", "license=mit", "steps=4"]
    assert not app([*words, f"site.root={trained.root}"], standalone_mode=False)
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
