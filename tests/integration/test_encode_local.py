"""``encode`` and ``verify`` in this process, on real files."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from histodiff.cluster.site import NoRay, Site
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.stages.parts import EncodePart, EncodeReader
from histodiff.errors import ArtifactDrift, ConfigError
from histodiff.latents import LatentStore
from histodiff.latents.arrow import arrow_stream
from histodiff.latents.layout import shard_name
from histodiff.models.autoencoder import load_autoencoder
from histodiff.storage import file_sizes, storage_path
from histodiff.workflows.encode import encode, estimate
from histodiff.workflows.verify import verify
from tests.support.encode_inputs import (
    IMAGES_PER_SLIDE,
    SLIDES,
    draw_images,
    encode_config,
    write_autoencoder,
    write_inputs,
    write_patches,
)

ROWS = SLIDES * IMAGES_PER_SLIDE


@pytest.fixture
def inputs(site, tmp_path):
    write_inputs(site.storage_root, tmp_path / "images")
    return site


def test_encode_rows_are_the_moments_of_their_patches(inputs, tmp_path):
    store = LatentStore.open(encode(encode_config(), inputs).path)
    assert (store.num_rows, store.moment_shape) == (ROWS, (4, 8, 8))
    assert (store.patch_px, store.mpp, store.classes) == (16, None, ("a", "b"))
    autoencoder = load_autoencoder(inputs.storage_root / "autoencoders/kl/v1", device="cpu")
    assert store.encoder_sha256 == autoencoder.encoder_sha256
    patches = store.rows["patch"].to_numpy()
    folder = inputs.storage_root / "patches/patches/v1"
    rows = PatchIndex.open(folder).patches.take(patches)
    pixels = EncodeReader(folder).read(EncodePart(np.arange(ROWS), arrow_stream(rows))).pixels
    first = np.asarray(Image.open(tmp_path / "images" / f"{patches[0]:03d}.png"))
    assert np.array_equal(pixels[0], first)
    mean, std = autoencoder.encode(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    expected = torch.cat([mean, std], 1).numpy()
    assert np.allclose(store.read(0, ROWS).astype(np.float32), expected, atol=2e-3, rtol=2e-3)


def test_encode_manifest_says_what_reading_took(inputs, caplog):
    with caplog.at_level("INFO", logger="histodiff"):
        manifest = encode(encode_config(), inputs).manifest
    pixels = ROWS * 16 * 16 * 3  # every image is one patch: what is decoded is shown
    found = manifest.provenance["encode_reading"]
    assert found == {"decoded": pixels, "shown": pixels, "fetched": 0, "amplification": 1.0}
    assert "amplification 1.00" in caplog.text


def test_encode_again_does_nothing_and_gives_the_same_artifact(inputs):
    first = encode(encode_config(), inputs)
    manifest = first.path / "manifest.json"
    before = manifest.stat().st_mtime
    assert encode(encode_config(), inputs).manifest == first.manifest
    assert manifest.stat().st_mtime == before


def test_encode_manifest_lists_every_file_and_verify_finds_nothing(inputs):
    artifact = encode(encode_config(), inputs)
    assert shard_name(5) in artifact.manifest.files
    assert artifact.manifest.contents["rows"] == ROWS
    assert verify("latents@v1", inputs) == []
    assert verify("kl@v1", inputs) == []


def test_encode_driver_killed_then_the_same_command_gives_the_same_bytes(inputs, tmp_path):
    root = Path(inputs.root)
    expected = _undisturbed(tmp_path)
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.dying_driver", str(root)],
        check=False, capture_output=True,
    )  # fmt: skip
    assert run.returncode == -signal.SIGKILL
    store = root / "latents/latents/v1"
    assert sorted(path.name for path in (store / "ledger").iterdir()) == [
        "00000000.json",
        "00000001.json",
    ]
    kept = (store / shard_name(0)).stat().st_mtime_ns
    artifact = encode(encode_config(), inputs)
    assert artifact.manifest.content_sha256 == expected.content_sha256
    assert artifact.manifest.files == expected.files
    assert (store / shard_name(0)).stat().st_mtime_ns == kept


def test_encode_half_written_shard_is_written_again(inputs, tmp_path):
    first = encode(encode_config(), inputs)
    (first.path / "manifest.json").unlink()
    shard = Path(first.path.path) / shard_name(1)
    data = shard.read_bytes()
    shard.write_bytes(data[:100])
    second = encode(encode_config(), inputs)
    assert shard.read_bytes() == data
    assert second.manifest.content_sha256 == first.manifest.content_sha256


def test_encode_truncated_image_is_quarantined_and_named(site, tmp_path):
    images = tmp_path / "images"
    draw_images(images)
    write_inputs(site.storage_root, images)
    broken = images / "007.png"
    broken.write_bytes(broken.read_bytes()[:200])
    artifact = encode(encode_config(), site)
    (issue,) = artifact.manifest.failed
    assert (issue.unit, issue.reason) == ("007.png", "UNREADABLE")
    store = LatentStore.open(artifact.path)
    assert len(store.valid_rows) == ROWS - 1
    assert verify("latents@v1", site) == []


def test_encode_too_many_failures_name_the_first_and_the_fix(site, tmp_path):
    images = tmp_path / "images"
    draw_images(images)
    write_inputs(site.storage_root, images)
    for number in range(9):
        (images / f"{number:03d}.png").write_bytes(b"not an image")
    with pytest.raises(ConfigError, match=r"max_failed_fraction=0\.1: 9 of 45 .* 000\.png"):
        encode(encode_config(), site)
    artifact = encode(encode_config(max_failed_fraction=0.5), site)
    assert artifact.manifest.contents["quarantined"] == 9


def test_encode_patch_size_that_does_not_fit_the_autoencoder_is_refused(site, tmp_path):
    images = tmp_path / "images"
    draw_images(images)
    write_patches(site.storage_root, images, patch_px=15)
    write_autoencoder(site.storage_root)
    with pytest.raises(ConfigError, match="patch_px=15 is not a multiple of 2"):
        encode(encode_config(), site)


def test_encode_other_autoencoder_under_the_same_name_is_drift(inputs):
    encode(encode_config(), inputs)
    write_autoencoder(inputs.storage_root, version="v2", seed=1)
    with pytest.raises(ArtifactDrift, match="autoencoder"):
        encode(encode_config(autoencoder="kl@v2"), inputs)


def test_estimate_is_what_encode_writes(inputs):
    expected = estimate(encode_config(), inputs)
    shown = {name: expected[name] for name in ("slides", "patches", "units")}
    assert shown == {"slides": SLIDES, "patches": ROWS, "units": 6}
    sizes = file_sizes(encode(encode_config(), inputs).path)
    assert expected["objects"] == len(sizes)
    assert expected["bytes"] == pytest.approx(sum(sizes.values()), rel=0.02)


def test_verify_flipped_byte_missing_and_extra_files_are_named(inputs):
    artifact = encode(encode_config(), inputs)
    folder = Path(artifact.path.path)
    shard = folder / shard_name(3)
    data = bytearray(shard.read_bytes())
    data[17] ^= 4
    shard.write_bytes(data)
    (folder / "rows" / "00000.parquet").rename(folder / "rows" / "00001.parquet")
    (folder / "ledger" / "00000002.json").unlink()
    problems = verify("latents/latents@v1", inputs)
    assert f"{shard_name(3)}: sha256 is not the one in the manifest" in problems
    assert "rows/00000.parquet: missing" in problems
    assert "rows/00001.parquet: is not in the manifest" in problems
    assert "ledger/00000002.json: missing" in problems


def test_verify_deleted_shard_is_named(inputs):
    artifact = encode(encode_config(), inputs)
    (Path(artifact.path.path) / shard_name(4)).unlink()
    assert f"{shard_name(4)}: missing" in verify("latents@v1", inputs)


def _undisturbed(tmp_path):
    """The manifest of a run that nothing disturbs, in a root of its own."""
    site = Site(root=str(tmp_path / "undisturbed"), ray=NoRay(type="none"), device="cpu")
    write_inputs(storage_path(site.root), tmp_path / "images")
    return encode(encode_config(), site).manifest
