"""A finished run made of tiny fabricated artifacts, for tests of what reads artifacts."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from histodiff.artifacts import Kind, Reference
from histodiff.artifacts.artifact import MANIFEST
from histodiff.artifacts.manifest import Manifest
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import (
    PATCHES_SCHEMA,
    SLIDES_SCHEMA,
    IndexFacts,
    PatchIndex,
    table_from_rows,
    write_patch_index,
)
from histodiff.pretraining.tables import write_tables
from histodiff.runtime.symmetries import NAMES
from histodiff.samples import Decision, finish_store, write_selection, write_shard
from histodiff.storage import storage_path, write_bytes
from histodiff.training import MetricsRow, TimingRow, TrainingRecords, ValidationRow
from histodiff.workflows.sweep import SweepConfig
from histodiff.workflows.sweep.trial_table import TrialRow, write_trials

CLASSES = ("benign", "cancer")
PX = 16


def finished(root, kind, name, *, config=None, contents=None):
    """A folder with a manifest; returns it."""
    path = storage_path(root) / kind / name / "v1"
    manifest = Manifest(
        kind=kind, name=name, version="v1", format=1, fingerprint="f" * 64, config=config or {},
        inputs={}, provenance={"packages": {"torch": "2"}, "platform": "test"},
        contents=contents or {}, content_sha256="c" * 64, files={},
    )  # fmt: skip
    write_bytes(path / MANIFEST, manifest.model_dump_json().encode())
    return path


def fabricate_patches(root, images: Path, *, per_slide=2):
    """A labelled patch set of six slides, with two patches each, and one slide without tissue."""
    images.mkdir(parents=True)
    slides, patches = [], []
    for number in range(7):
        slide = dict.fromkeys(SLIDES_SCHEMA.names)
        good = number < 6
        slide |= {
            "slide_id": f"s{number}", "patient_id": f"p{number}", "url": str(images), "width": PX,
            "height": PX, "mpp_x": 1.0, "mpp_y": 1.0, "num_patches": per_slide * good,
            "status": "ok" if good else "NO_TISSUE", "reason": "" if good else "blank <glass>",
        }  # fmt: skip
        slides.append(slide)
        for patch in range(per_slide * good):
            file = f"{number}-{patch}.png"
            pixels = np.full((PX, PX, 3), (40 * number + patch) % 256, np.uint8)
            Image.fromarray(pixels).save(images / file)
            patches.append(
                dict.fromkeys(PATCHES_SCHEMA.names)
                | {
                    "slide_id": f"s{number}",
                    "patient_id": f"p{number}",
                    "path": file,
                    "x": 0,
                    "y": 0,
                    "level": 0,
                    "read_width": PX,
                    "read_height": PX,
                    "effective_mpp_x": 1.0,
                    "effective_mpp_y": 1.0,
                    "tissue_fraction": 1.0,
                    "label": CLASSES[number % 2],
                    "split": "train" if number < 4 else "test",
                }
            )
    index = PatchIndex(
        slides=table_from_rows(slides, SLIDES_SCHEMA),
        patches=table_from_rows(patches, PATCHES_SCHEMA),
        facts=IndexFacts(patch_px=PX, mpp=1.0, resample="box", classes=CLASSES),
    )
    contents = {
        "slides": 7, "patches": 12, "patch_px": PX, "mpp": 1.0,
        "patches_by_split": {"train": 8, "val": 0, "test": 4},
        "patches_by_class": {"benign": 6, "cancer": 6},
    }  # fmt: skip
    path = finished(root, Kind.PATCHES, "target", contents=contents)
    write_patch_index(path, index)
    write_bytes(path / "overlays" / "s0.png", picture())


def picture():
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), 180, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def fabricate_networks(root):
    """An autoencoder and a denoiser, as far as the report reads them."""
    turned = {
        "num_patches": 32, "psnr_db": 24.7, "rmse": 14.9,
        "symmetries": [
            {
                "symmetry": name, "psnr_to_pixels_db": 23.0 - 0.4 * (number % 2),
                "rmse_to_pixels": 18.1, "psnr_to_decoded_db": 27.5, "rmse_to_decoded": 10.8,
                "latent_error": 0.31,
            }
            for number, name in enumerate(NAMES[1:])
        ],
    }  # fmt: skip
    contents = {"psnr_db": 24.5, "ssim": 0.71, "encoder_sha256": "e", "equivariance": turned}
    path = finished(root, Kind.AUTOENCODERS, "ae", contents=contents)
    write_bytes(path / "reconstructions.png", picture())
    path = finished(root, Kind.DENOISERS, "d", contents={"images_seen": 200, "parameters": 10})
    records = TrainingRecords(
        metrics=[MetricsRow(1, 100, 1.0, 1.0, 1e-3, 0), MetricsRow(2, 200, 0.5, 1.0, 1e-3, 0)],
        validation=[
            ValidationRow(step, 100 * step, sigma, 1.0 / step + sigma, 4)
            for step in (1, 2)
            for sigma in (0.1, 1.0)
        ],
        timing=[TimingRow(1, 1.0, 0.1)],
    )
    write_tables(path, records, [])


def fabricate_sweep(root, gains):
    """A sweep of two arms; ``gains`` is what the selected arm gains over the control, by seed."""
    config = parse_config(
        SweepConfig,
        {
            "name": "s", "version": "v1", "artifacts": {"target": "patches/target@v1"},
            "steps": {
                "synthesize": {"command": "synthesize", "config": {}},
                "select": {"command": "select", "config": {}, "from": {"samples": "synthesize"}},
                "real": {"command": "classify", "config": {}},
                "selected": {
                    "command": "classify", "config": {}, "from": {"selection": "select"},
                },
            },
            "search": {
                "guidance_scale": {"sets": ["synthesize.guidance.scale"], "values": [1.0, 3.0]},
                "ratio": {"sets": ["selected.synthetic_ratio"], "values": [0.5, 1.0]},
            },
            "seeds": list(range(len(gains))),
            "arms": [
                {"label": "real only", "step": "real"},
                {"label": "selected samples", "step": "selected"},
            ],
            "control": "real only",
        },
        source="fabricated",
    )  # fmt: skip
    path = finished(root, Kind.SWEEPS, "s", config=config.model_dump(mode="json"))
    rows = []
    for seed, gain in enumerate(gains):
        base = 0.6 + 0.01 * seed
        rows.append(_classifier(root, f"real{seed}", "real only", "real", seed, {}, base))
        for scale in (1.0, 3.0):
            samples = f"samples{seed}-{scale:g}"
            _samples(root, samples, seed)
            at = {"guidance_scale": scale}
            rows.append(_row("synthesize", "synthesize", Kind.SAMPLES, samples, seed, at))
            rows.append(_row("select", "select", Kind.SELECTIONS, samples, seed, at))
            for ratio in (0.5, 1.0):
                name = f"selected{seed}-{scale:g}-{ratio:g}"
                both = {**at, "ratio": ratio}
                value = base + gain
                rows.append(
                    _classifier(root, name, "selected samples", "selected", seed, both, value)
                )
    write_trials(path, rows, config)


def _row(step, command, kind, name, seed, axes, arm=None, metrics=None):
    address = Reference.of(kind, name, "v1")
    return TrialRow(step, arm, command, address, seed, axes, None, metrics or {})


def _classifier(root, name, arm, step, seed, axes, value):
    path = finished(root, Kind.CLASSIFIERS, name, config={"patches": "target@v1"})
    metrics = {
        "patch": {"accuracy": value, "balanced_accuracy": value, "auc": None},
        "patch_interval": {"balanced_accuracy": [value - 0.1, value + 0.1]},
        "test_patches": 4, "test_slides": 2, "synthetic": {"benign": 3, "cancer": 1},
        "synthetic_wanted": 4,
    }  # fmt: skip
    write_bytes(path / "metrics.json", json.dumps(metrics).encode())
    defined = {key: number for key, number in metrics["patch"].items() if number is not None}
    return _row(step, "classify", Kind.CLASSIFIERS, name, seed, axes, arm, defined)


def _samples(root, name, seed):
    labels = ["benign", "cancer"] * 3
    path = finished(root, Kind.SAMPLES, name)
    columns = {
        "sample": range(6), "label": labels, "seed": [seed] * 6, "guide": ["g"] * 6,
        "guidance_scale": [1.0] * 6, "sampler": ["{}"] * 6, "denoiser": ["d"] * 6,
        "decoder_sha256": ["x"] * 6, "guide_log_prob": [-0.1] * 6,
    }  # fmt: skip
    columns["sample"] = list(columns["sample"])
    pixels = np.full((6, PX, PX, 3), 128, np.uint8)
    record = write_shard(path, 0, columns=columns, pixels_NHWC=pixels)
    finish_store(
        path, [record], classes=CLASSES, image_px=PX, mpp=1.0, encoder_sha256="e",
        decoder_sha256="x",
    )  # fmt: skip
    config = {"samples": f"{name}@v1", "rule": {"type": "centroid"}}
    path = finished(root, Kind.SELECTIONS, name, config=config)
    write_selection(
        path,
        [
            Decision(n, label, n // 2 if n < 4 else None, "ACCEPTED" if n < 4 else "OTHER_CENTROID")
            for n, label in enumerate(labels)
        ],
    )
