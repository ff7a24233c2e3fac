"""The config of ``encode`` and what follows from it before anything runs.

Inputs, the store's layout, the plan of its shards: the driver, its estimate and the check of a
finished store take them from here.
"""

import json
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from histodiff.artifacts import Artifact, CommandConfig, Kind, Reference, open_artifact
from histodiff.cluster.site import Site
from histodiff.config import Location
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.latents import (
    LatentStoreConfig,
    ShardPlan,
    StoreAttributes,
    StoreLayout,
    plan_shards,
)
from histodiff.storage import read_bytes
from histodiff.workflows.encode.speed import EncodeConditions
from histodiff.workflows.networks import SYMMETRIES


class EncodeConfig(CommandConfig):
    """Root config of ``encode``."""

    artifact_kind: ClassVar[Kind] = Kind.LATENTS

    patches: Annotated[Reference, Location()]
    """PatchIndex whose patches are encoded, all splits."""
    autoencoder: Annotated[Reference, Location()]
    """Autoencoder that encodes them."""
    store: LatentStoreConfig
    """How rows are cut into shards and inner chunks."""
    supertile: int = Field(ge=1)
    """Size of the blocks of neighbours that stay together in a shard: `supertile` squared patches,
    twice as many across and half as many down. Larger ones take fewer requests, and mix less."""
    mixing: int = Field(ge=1)
    """Slides that a shard mixes: more mix better, and open more slides per shard."""
    batch: int = Field(ge=1)
    """Patches in one forward pass of the encoder."""
    threads: int = Field(ge=1)
    """Torch threads of an encoder; results on a CPU depend on it."""
    precision: Literal["fp32", "bf16"]
    """Precision of the encoder; bf16 is slower than fp32 on most CPUs."""
    compiled: bool = False
    """Whether the encoder runs through torch.compile. Bytes differ from those without it by
    rounding, so it decides what the store is. Every encoder compiles for most of a minute first, so
    that it pays for runs of many minutes only (data_prep/README)."""
    seed: int
    """Seed of the row order."""
    max_failed_fraction: Annotated[float, Location()] = Field(ge=0, le=1)
    """Share of quarantined rows above which the command fails; changes no byte of the store."""

    def inputs(self) -> dict[str, Reference]:
        return {
            "patches": self.patches.as_kind(Kind.PATCHES),
            "autoencoder": self.autoencoder.as_kind(Kind.AUTOENCODERS),
        }


def store_layout(config: EncodeConfig, index: PatchIndex, autoencoder: Artifact) -> StoreLayout:
    """Shapes and attributes of the store.

    Raises:
        ConfigError: There are no patches, or their size does not fit the autoencoder.
    """
    if index.patches.num_rows == 0:
        raise ConfigError(f"patches '{config.patches}': has no patches; see its slides and reasons")
    facts = json.loads(read_bytes(autoencoder.path / "autoencoder.json"))
    side, odd = divmod(index.patch_px, facts["downsampling"])
    if odd:
        raise ConfigError(
            f"patches '{config.patches}': patch_px={index.patch_px} is not a multiple of"
            f" {facts['downsampling']}, by which autoencoder '{config.autoencoder}' downsamples;"
            " tile with another patch_px"
        )
    return StoreLayout(
        num_rows=index.patches.num_rows,
        moment_shape=(2 * facts["latent_channels"], side, side),
        rows_per_shard=config.store.rows_per_shard,
        rows_per_chunk=config.store.rows_per_chunk,
        attributes=StoreAttributes(
            encoder_sha256=facts["encoder_sha256"],
            patch_px=index.patch_px,
            mpp=index.mpp,
            classes=index.classes,
            symmetries=autoencoder.manifest.contents.get(SYMMETRIES),
        ),
    )


def opened_inputs(config: EncodeConfig, site: Site) -> dict[str, Artifact]:
    """The artifacts that are read, by the config key that names them."""
    return {key: open_artifact(site.storage_root, ref) for key, ref in config.inputs().items()}


def shard_plan(config: EncodeConfig, index: PatchIndex) -> ShardPlan:
    """Which patch is which row, shard by shard."""
    return plan_shards(
        index.patches,
        supertile=config.supertile,
        mixing=config.mixing,
        rows_per_shard=config.store.rows_per_shard,
        seed=config.seed,
    )


def encode_conditions(config: EncodeConfig, site: Site, layout: StoreLayout) -> EncodeConditions:
    """What the speed of a run holds for."""
    return EncodeConditions(
        encoder_sha256=layout.attributes.encoder_sha256,
        patch_px=layout.attributes.patch_px,
        batch=config.batch,
        threads=config.threads,
        precision=config.precision,
        compiled=config.compiled,
        device=site.device,
        ray=site.ray.type,
        encode_workers=site.encode_workers,
        reader_workers=site.reader_workers,
    )
