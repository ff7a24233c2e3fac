"""Artifacts of a tiny labelled target, made without training: what guide..classify read.

Two classes of 32 px patches that differ in colour, ten slides, an untrained autoencoder and an
untrained denoiser. Everything is real in format, so the commands run as they do for users.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from histodiff.artifacts import Artifact, CommandConfig, Kind, Reference, begin, open_artifact
from histodiff.cluster.site import Site
from histodiff.config import Location
from histodiff.data_prep.index.patch_index import (
    PATCHES_SCHEMA,
    SLIDES_SCHEMA,
    IndexFacts,
    PatchIndex,
    table_from_rows,
    write_patch_index,
)
from histodiff.diffusion import EdmObjective
from histodiff.latents import LatentStore, LatentStoreConfig, mixture_whitening
from histodiff.models.autoencoder import (
    Autoencoder,
    KlArchitecture,
    create_network,
    save_autoencoder,
)
from histodiff.models.denoiser import Denoiser, DenoiserConfig, SnapshotInfo, save_snapshot
from histodiff.models.unet import UNetConfig
from histodiff.workflows.encode import EncodeConfig, encode
from histodiff.workflows.networks import snapshot_path

CLASSES = ("benign", "cancer")
PATCH_PX = 32
PATCHES_PER_SLIDE = 4
SPLITS = ("train", "train", "train", "val", "test", "test")
"""Split of the slides of each class."""


class MadeConfig(CommandConfig):
    """Config of an artifact that a test writes itself."""

    artifact_kind: ClassVar[Kind] = Kind.PATCHES
    seed: int = 0

    def inputs(self) -> dict[str, Reference]:
        return {}


class MadeAutoencoder(MadeConfig):
    artifact_kind: ClassVar[Kind] = Kind.AUTOENCODERS


class MadeDenoiser(MadeConfig):
    artifact_kind: ClassVar[Kind] = Kind.DENOISERS
    latents: Annotated[Reference, Location()]


def make_chain(site: Site, folder: Path) -> None:
    """Writes patches, autoencoder, latents and denoiser, each named ``toy@v1``."""
    make_patches(site, folder)
    make_autoencoder(site, seed=0, name="toy")
    make_latents(site, autoencoder="toy@v1", name="toy")
    make_denoiser(site, name="toy")


def make_patches(site: Site, folder: Path, *, name: str = "toy") -> Artifact:
    """A PatchIndex of PNG patches: reddish benign, bluish cancer, each slide with its own tint."""
    slides, patches = [], []
    rng = np.random.default_rng(0)
    for number, (label, split) in enumerate((c, s) for c in CLASSES for s in SPLITS):
        slide = f"slide-{number:02d}"
        colour = np.array([190, 110, 140] if label == "benign" else [120, 90, 180])
        tint = rng.normal(0, 8, size=3)
        for patch in range(PATCHES_PER_SLIDE):
            path = f"{slide}-{patch}.png"
            coarse = rng.normal(0, 20, size=(PATCH_PX // 8, PATCH_PX // 8, 3))
            noise = np.kron(coarse, np.ones((8, 8, 1)))  # structure that can be learned
            pixels = np.clip(colour + tint + noise, 0, 255).astype(np.uint8)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / path)
            patches.append(_patch_row(slide, path, label, split))
        slides.append(_slide_row(slide, str(folder)))
    patches.sort(key=lambda row: (row["slide_id"], row["y"], row["x"], row["path"]))
    index = PatchIndex(
        slides=table_from_rows(slides, SLIDES_SCHEMA),
        patches=table_from_rows(patches, PATCHES_SCHEMA),
        facts=IndexFacts(patch_px=PATCH_PX, mpp=1.0, resample="box", classes=CLASSES),
    )
    draft = begin(site.storage_root, MadeConfig(name=name, version="v1"))
    write_patch_index(draft.path, index)
    return draft.finish({})


def make_pool(site: Site, folder: Path, *, prefix: str = "pool-") -> Artifact:
    """A PatchIndex ``pool@v1``, all of it for training: the colours of the target, no label.

    Args:
        site: Where it is written.
        folder: Where its images are.
        prefix: What the names of its slides and patients begin with; else they are the target's.
    """
    index = PatchIndex.open(make_patches(site, folder, name="source").path)
    slides, rows = (_renamed(table, prefix) for table in (index.slides, index.patches))
    for column, value in (("label", None), ("split", "train")):
        values = pa.array([value] * rows.num_rows, pa.string())
        rows = rows.set_column(rows.column_names.index(column), column, values)
    draft = begin(site.storage_root, MadeConfig(name="pool", version="v1"))
    facts = replace(index.facts, classes=())
    write_patch_index(draft.path, replace(index, slides=slides, patches=rows, facts=facts))
    return draft.finish({})


def _renamed(table: Any, prefix: str) -> Any:
    for column in ("slide_id", "patient_id"):
        names = pa.array([f"{prefix}{name}" for name in table[column].to_pylist()])
        table = table.set_column(table.column_names.index(column), column, names)
    return table


def _patch_row(slide: str, path: str, label: str, split: str) -> Mapping[str, Any]:
    return dict.fromkeys(PATCHES_SCHEMA.names) | {
        "slide_id": slide, "patient_id": slide, "path": path, "x": 0, "y": 0, "level": 0,
        "read_width": PATCH_PX, "read_height": PATCH_PX, "effective_mpp_x": 1.0,
        "effective_mpp_y": 1.0, "tissue_fraction": 1.0, "label": label,
        "split": split,
    }  # fmt: skip


def _slide_row(slide: str, url: str) -> Mapping[str, Any]:
    numbers = dict.fromkeys(("width", "height", "bounds_x", "bounds_y"), 0)
    texts = dict.fromkeys(
        ("content_hash", "vendor", "mpp_source", "reader", "reader_version", "reason", "site"), ""
    )
    return dict.fromkeys(SLIDES_SCHEMA.names) | {
        "slide_id": slide, "patient_id": slide, "url": url, "mpp_x": 1.0, "mpp_y": 1.0,
        "status": "ok", "num_patches": PATCHES_PER_SLIDE, **numbers, **texts,
    }  # fmt: skip


def make_autoencoder(site: Site, *, seed: int, name: str) -> Artifact:
    """An untrained autoencoder that shrinks eight times into four channels."""
    draft = begin(site.storage_root, MadeAutoencoder(name=name, version="v1", seed=seed))
    architecture = KlArchitecture(
        type="kl", channels=(8, 8, 8, 8), latent_channels=4, blocks_per_level=1, norm_groups=4,
        mid_attention=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Autoencoder(create_network(architecture))
    save_autoencoder(draft.path, network)
    return draft.finish(
        {"encoder_sha256": network.encoder_sha256, "decoder_sha256": network.decoder_sha256}
    )


def make_latents(site: Site, *, autoencoder: str, name: str, patches: str = "toy@v1") -> Artifact:
    """The patches, encoded."""
    config = EncodeConfig(
        name=name, version="v1", patches=patches, autoencoder=autoencoder,
        store=LatentStoreConfig(rows_per_shard=16, rows_per_chunk=4),
        supertile=1, mixing=4, batch=8, threads=1, precision="fp32", seed=0,
        max_failed_fraction=0.0,
    )  # fmt: skip
    return encode(config, site)


def make_denoiser(
    site: Site,
    *,
    name: str,
    latents: str = "toy@v1",
    patch_px: int = PATCH_PX,
    images_seen: int = 0,
) -> Artifact:
    """An untrained denoiser, whatever it says to have seen, with the whitening of the latents."""
    encoded = open_artifact(site.storage_root, Reference(latents).as_kind(Kind.LATENTS))
    store = LatentStore.open(encoded.path)
    whitening = mixture_whitening([store], [1.0])
    config = DenoiserConfig(
        network=UNetConfig(
            type="unet", channels=(8, 16), attention_levels=(False, False), blocks_per_level=1,
            head_dim=8, norm_groups=4,
        ),
        objective=EdmObjective(type="edm"),
    )  # fmt: skip
    channels, height, width = store.moment_shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser = Denoiser(config, latent_shape=(channels // 2, height, width))
    info = SnapshotInfo(
        whitening.mean,
        whitening.scale,
        store.encoder_sha256,
        patch_px,
        1.0,
        images_seen=images_seen,
    )
    made = MadeDenoiser(name=name, version="v1", latents=latents)
    draft = begin(site.storage_root, made, inputs={"latents": encoded})
    save_snapshot(snapshot_path(draft.path), denoiser, info)
    return draft.finish({"encoder_sha256": store.encoder_sha256})
