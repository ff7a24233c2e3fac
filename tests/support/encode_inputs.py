"""What ``encode`` reads, small and real: a patch set of PNG files and a KL autoencoder."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from histodiff.artifacts import CommandConfig, Kind, Reference, begin
from histodiff.data_prep.index.patch_index import (
    PATCHES_SCHEMA,
    SLIDES_SCHEMA,
    IndexFacts,
    PatchIndex,
    table_from_rows,
    write_patch_index,
)
from histodiff.models.autoencoder import (
    Autoencoder,
    KlArchitecture,
    create_network,
    save_autoencoder,
)
from histodiff.storage import StoragePath
from histodiff.workflows.encode import EncodeConfig

PATCH_PX = 16
SLIDES, IMAGES_PER_SLIDE = 5, 9


class PatchesConfig(CommandConfig):
    artifact_kind: ClassVar[Kind] = Kind.PATCHES

    def inputs(self) -> dict[str, Reference]:
        return {}


class AutoencodersConfig(CommandConfig):
    artifact_kind: ClassVar[Kind] = Kind.AUTOENCODERS
    seed: int

    def inputs(self) -> dict[str, Reference]:
        return {}


def encode_config(**changes: object) -> EncodeConfig:
    values = {
        "name": "latents", "version": "v1", "patches": "patches@v1", "autoencoder": "kl@v1",
        "store": {"rows_per_shard": 8, "rows_per_chunk": 4}, "supertile": 2, "mixing": 3,
        "batch": 4, "threads": 1, "precision": "fp32", "seed": 1, "max_failed_fraction": 0.1,
    }  # fmt: skip
    return EncodeConfig.model_validate({**values, **changes})


def write_inputs(root: StoragePath, images: Path) -> None:
    """``patches@v1`` of the images (drawn if there are none) and ``kl@v1``."""
    if not images.exists():
        draw_images(images)
    write_patches(root, images)
    write_autoencoder(root)


def draw_images(images: Path) -> None:
    images.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(SLIDES * IMAGES_PER_SLIDE):
        pixels = generator.integers(0, 256, (PATCH_PX, PATCH_PX, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number:03d}.png")


def write_patches(root: StoragePath, images: Path, *, patch_px: int = PATCH_PX) -> None:
    slides = [f"slide-{number}" for number in range(SLIDES)]
    empty = dict.fromkeys(SLIDES_SCHEMA.names)
    slide_rows = [
        {**empty, "slide_id": slide, "patient_id": slide, "url": str(images), "status": "ok"}
        for slide in slides
    ]
    nothing = dict.fromkeys(PATCHES_SCHEMA.names)
    patch_rows = [
        {
            **nothing, "slide_id": slide, "patient_id": slide,
            "path": f"{number * IMAGES_PER_SLIDE + image:03d}.png", "x": 0, "y": 0, "level": 0,
            "read_width": patch_px, "read_height": patch_px, "split": "train",
            "label": ("a", "b")[number % 2],
        }
        for number, slide in enumerate(slides)
        for image in range(IMAGES_PER_SLIDE)
    ]  # fmt: skip
    facts = IndexFacts(patch_px=patch_px, mpp=None, resample="box", classes=("a", "b"))
    write_index(root, slide_rows, patch_rows, facts)


def write_index(
    root: StoragePath,
    slides: list[dict[str, object]],
    patches: list[dict[str, object]],
    facts: IndexFacts,
    *,
    name: str = "patches",
) -> None:
    """``name@v1`` of rows with all columns."""
    index = PatchIndex(
        slides=table_from_rows(slides, SLIDES_SCHEMA),
        patches=table_from_rows(patches, PATCHES_SCHEMA),
        facts=facts,
    )
    draft = begin(root, PatchesConfig(name=name, version="v1"))
    draft.finish({}, content=write_patch_index(draft.path, index))


def write_autoencoder(
    root: StoragePath,
    *,
    version: str = "v1",
    seed: int = 0,
    channels: tuple[int, ...] = (8, 16),
    latent_channels: int = 2,
) -> None:
    """``kl@version`` with random weights."""
    torch.manual_seed(seed)
    architecture = KlArchitecture(
        type="kl", channels=channels, latent_channels=latent_channels, blocks_per_level=1,
        norm_groups=4, mid_attention=False,
    )  # fmt: skip
    config = AutoencodersConfig(name="kl", version=version, seed=seed)
    draft = begin(root, config)
    save_autoencoder(draft.path, Autoencoder(create_network(architecture)))
    draft.finish({})
