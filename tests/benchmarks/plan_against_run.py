"""``plan --measure`` against the run that it plans, at two sizes: bytes, objects, seconds.

``python -m tests.benchmarks.plan_against_run [--patches 2000 8000] [--local]`` prints one
JSON object per size with what was planned, what came, and the difference in percent. Slides are
generated; the autoencoder is a tiny one with random weights; Ray is local.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from histodiff.cluster.site import Site
from histodiff.data_prep.index.patch_index import (
    PATCHES_SCHEMA,
    SLIDES_SCHEMA,
    IndexFacts,
)
from histodiff.storage import StoragePath, file_sizes, list_names
from histodiff.workflows.encode import EncodeConfig, encode
from histodiff.workflows.plan import CostPlan, Rates, plan
from histodiff.workflows.registry import COMMANDS, load
from histodiff.workflows.resolution import ResolvedStep
from tests.support.encode_inputs import write_autoencoder, write_index
from tests.support.tiff_slides import tissue_pixels, write_svs

PATCH_PX = 128
SLIDE_TILES = 20
"""Patches along a side of a generated slide."""


def write_patches(root: StoragePath, folder: Path, *, name: str, count: int) -> None:
    """``name@v1``: ``count`` patches on as many generated slides as it takes."""
    per_slide = SLIDE_TILES**2
    slides = [f"slide-{number:03d}" for number in range(-(-count // per_slide))]
    paths = [folder / f"{slide}.svs" for slide in slides]
    for number, path in enumerate(paths):
        if not path.exists():
            write_svs(path, [tissue_pixels(SLIDE_TILES * PATCH_PX, seed=number)], mpp=0.5)
    empty = dict.fromkeys(SLIDES_SCHEMA.names)
    slide_rows = [
        {
            **empty, "slide_id": slide, "patient_id": slide, "url": str(path), "status": "ok",
            "reader": "openslide", "size_bytes": path.stat().st_size,
        }
        for slide, path in zip(slides, paths, strict=True)
    ]  # fmt: skip
    nothing = dict.fromkeys(PATCHES_SCHEMA.names)
    patch_rows = [
        {
            **nothing, "slide_id": slides[number // per_slide],
            "patient_id": slides[number // per_slide], "path": "",
            "x": PATCH_PX * (number % per_slide % SLIDE_TILES),
            "y": PATCH_PX * (number % per_slide // SLIDE_TILES), "level": 0,
            "read_width": PATCH_PX, "read_height": PATCH_PX, "split": "train", "label": None,
        }
        for number in range(count)
    ]  # fmt: skip
    facts = IndexFacts(patch_px=PATCH_PX, mpp=0.5, resample="box", classes=())
    write_index(root, slide_rows, patch_rows, facts, name=name)


def config_of(name: str) -> EncodeConfig:
    """The encode command that is planned and run."""
    return EncodeConfig.model_validate(
        {
            "name": name, "version": "v1", "patches": f"{name}@v1", "autoencoder": "kl@v1",
            "store": {"rows_per_shard": 256, "rows_per_chunk": 64}, "supertile": 4, "mixing": 4,
            "batch": 32, "threads": 1, "precision": "fp32", "seed": 0, "max_failed_fraction": 0.0,
        }
    )  # fmt: skip


def planned(config: EncodeConfig, site: Site, *, seconds: float) -> CostPlan:
    """What ``histodiff plan --measure`` says."""
    step = ResolvedStep("encode", load(COMMANDS["encode"]), config, ())
    return plan([step], site, rates=Rates(), measure_seconds=seconds)


def compared(root: StoragePath, site: Site, *, name: str, seconds: float) -> dict[str, object]:
    """Planned and real numbers of one size."""
    config = config_of(name)
    cost = planned(config, site, seconds=seconds)
    started = time.monotonic()
    store = encode(config, site)
    took = time.monotonic() - started
    sizes = file_sizes(store.path)
    before = cost.totals
    real = {"bytes": sum(sizes.values()), "objects": len(sizes), "seconds": took}
    expected = {
        "bytes": before["bytes"], "objects": before["objects"],
        "seconds": cost.times["encode"].seconds,
    }  # fmt: skip
    rows = {
        key: {
            "planned": round(expected[key], 2),
            "real": round(real[key], 2),
            "percent": round(100 * (expected[key] / real[key] - 1), 2),
        }
        for key in real
    }
    left = [item for item in list_names(root) if item.startswith("scratch")]
    assert not left, left
    return {"patches": int(before["patches"]), **rows, "speed": vars(cost.times["encode"].speed)}


def main() -> None:
    """Prints one JSON object per size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--patches", type=int, nargs="+", default=[2000, 8000])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--local", action="store_true", help="no Ray")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="histodiff-plan-") as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        site = Site.model_validate(
            {
                "root": str(folder / "runs"), "device": "cpu",
                "ray": {"type": "none" if arguments.local else "local"},
            }
        )  # fmt: skip
        # down to 16x16 px of 4 channels
        write_autoencoder(site.storage_root, channels=(8, 16, 16, 16), latent_channels=4)
        for count in arguments.patches:
            name = f"patches-{count}"
            write_patches(site.storage_root, folder, name=name, count=count)
            found = compared(site.storage_root, site, name=name, seconds=arguments.seconds)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
