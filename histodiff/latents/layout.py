"""Shape and names of a LatentStore: what a writer and a reader must agree on.

A store is a Zarr v3 group. ``moments`` has shape ``(rows, 2C, h, w)``: posterior mean, then
posterior standard deviation, raw. A shard is one object of ``rows_per_shard`` rows; an inner chunk
inside it holds ``rows_per_chunk`` rows. Nothing here touches storage.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from histodiff.config import Config
from histodiff.runtime.symmetries import ChannelSymmetries

FORMAT = 1
SHARDS_TABLE = "shards.parquet"
ROWS_FOLDER = "rows"
QUARANTINE_FOLDER = "quarantine"
LEDGER_FOLDER = "ledger"
MOMENTS = "moments"
GROUP_METADATA = "zarr.json"
ARRAY_METADATA = f"{MOMENTS}/zarr.json"
SHARDS_FOLDER = f"{MOMENTS}/c"
BYTES_PER_VALUE = 2


class LatentStoreConfig(Config):
    """How rows are cut into objects."""

    rows_per_shard: int = Field(ge=1)
    """Rows of one shard: the unit of work, write, retry and checksum. Aim at 64 to 256 MiB."""
    rows_per_chunk: int = Field(ge=1)
    """Rows of one inner chunk, the smallest readable block; 64 to 512."""

    @model_validator(mode="after")
    def _chunks_fill_a_shard(self) -> "LatentStoreConfig":
        if self.rows_per_shard % self.rows_per_chunk:
            raise ValueError(
                f"rows_per_shard={self.rows_per_shard} must be a multiple of"
                f" rows_per_chunk={self.rows_per_chunk}"
            )
        return self


class StoreAttributes(Config):
    """Attributes of the Zarr group."""

    format: int = FORMAT
    """Format number of the store; readers of old numbers stay."""
    state: Literal["raw"] = "raw"
    """Latents are as the encoder gives them: whitening belongs to the denoiser."""
    encoder_sha256: str
    """Digest of the encoder's weights and config; a store binds to its encoder."""
    patch_px: int
    """Side of the encoded patches in pixels."""
    mpp: float | None
    """Microns per pixel of the encoded patches; null where unknown."""
    classes: tuple[str, ...]
    """Sorted labels; empty when unlabelled."""
    symmetries: ChannelSymmetries | None = None
    """What turning the tissue does to the channels of its latent; null leaves them as they are."""

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Stores of autoencoders without symmetries keep their bytes and digests."""
        fields: dict[str, Any] = dump(self)
        return {k: v for k, v in fields.items() if k != "symmetries" or v is not None}


@dataclass(frozen=True)
class StoreLayout:
    """Everything that decides names and shapes of a store's objects."""

    num_rows: int
    moment_shape: tuple[int, int, int]
    """``(2C, h, w)``."""
    rows_per_shard: int
    rows_per_chunk: int
    attributes: StoreAttributes

    @property
    def num_shards(self) -> int:
        """Shards, the last of which may be short."""
        return -(-self.num_rows // self.rows_per_shard)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of moments."""
        channels, height, width = self.moment_shape
        return channels * height * width * BYTES_PER_VALUE

    @property
    def chunks_per_shard(self) -> int:
        """Inner chunks in a full shard."""
        return self.rows_per_shard // self.rows_per_chunk

    def shard_rows(self, shard: int) -> range:
        """Row numbers of a shard."""
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.num_rows))

    def num_chunks(self, shard: int) -> int:
        """Inner chunks that a shard must contain."""
        return -(-len(self.shard_rows(shard)) // self.rows_per_chunk)


def shard_name(shard: int) -> str:
    """Path of a shard's object, relative to the store."""
    return f"{SHARDS_FOLDER}/{shard}/0/0/0"


def picture_name(shard: int, position: int) -> str:
    """Name of the picture of a quarantined row."""
    return f"{QUARANTINE_FOLDER}/{shard}/{position}.png"


def ledger_name(shard: int) -> str:
    """Path of a shard's ledger record, relative to the store."""
    return f"{LEDGER_FOLDER}/{shard:08d}.json"
