"""Reading a LatentStore.

Opening compares the objects that are there with ``shards.parquet``: zarr itself reads a deleted
shard as fill value without a word. Reading compares NaN rows with the row table. Neither reads more
than it must: digests of bytes are checked by ``store_problems`` (the command ``verify``).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ValidationError

from histodiff.errors import ArtifactCorrupt, ArtifactError, ArtifactNotFound
from histodiff.latents.cache import SlabCache
from histodiff.latents.codec import open_group
from histodiff.latents.fetch import RowFetcher, lost_rows, non_finite_rows
from histodiff.latents.finish import present_shards
from histodiff.latents.flags import QUARANTINED, RowFlags, distinct_rows
from histodiff.latents.layout import (
    FORMAT,
    MOMENTS,
    SHARDS_TABLE,
    StoreAttributes,
    StoreLayout,
    shard_name,
)
from histodiff.latents.rows import read_parquet, read_row_table
from histodiff.latents.slabs import SlabGrid
from histodiff.storage import RangeReader, StoragePath, is_local, range_reader


@dataclass(frozen=True)
class LatentStore:
    """A finished store, opened for reading."""

    path: StoragePath
    layout: StoreLayout
    shards: pa.Table
    """Per shard: shard, rows, quarantined, size_bytes, sha256."""
    flags: RowFlags
    """Per row: whether it is there, and its split."""
    ranges: RangeReader
    """Reads bytes of its objects."""
    _moments: Any

    @classmethod
    def open(cls, path: StoragePath) -> "LatentStore":
        """The store at ``path``.

        Raises:
            ArtifactNotFound: There is no store, or it is not finished.
            ArtifactCorrupt: A shard is missing, has another size, or is not listed; a newer format.
        """
        with ThreadPoolExecutor(2) as threads:
            present = threads.submit(present_shards, path)
            flags = threads.submit(RowFlags.read, path)
            try:
                shards = read_parquet(path / SHARDS_TABLE)
                group = open_group(path)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise ArtifactNotFound(f"{path} is not a finished latent store") from error
            layout = _layout(path, group)
            if shards["shard"].to_pylist() != list(range(layout.num_shards)):
                raise ArtifactCorrupt(
                    f"{path / SHARDS_TABLE}: does not list shards 0 to {layout.num_shards - 1}"
                )
            _compare_objects(path, shards, present.result())
            num_flags = len(flags.result().codes)
        if num_flags != layout.num_rows:
            raise ArtifactCorrupt(
                f"{path}: {num_flags} rows in rows/, {layout.num_rows} in moments"
            )
        return cls(path, layout, shards, flags.result(), range_reader(path), group[MOMENTS])

    @cached_property
    def rows(self) -> pa.Table:
        """Per row: patch, slide_id, patient_id, x, y, label, split, status.

        Read when first asked for, and kept: about 100 bytes a row. Training does without.
        """
        return read_row_table(self.path)

    def distinct_rows(self, columns: list[str]) -> pa.Table:
        """Different combinations of values in columns of the row table, without keeping it."""
        return distinct_rows(self.path, columns)

    @property
    def num_rows(self) -> int:
        """Rows, quarantined ones included."""
        return self.layout.num_rows

    @property
    def moment_shape(self) -> tuple[int, int, int]:
        """``(2C, h, w)``: posterior mean, then posterior standard deviation."""
        return self.layout.moment_shape

    @property
    def latent_channels(self) -> int:
        """C."""
        return self.layout.moment_shape[0] // 2

    @property
    def encoder_sha256(self) -> str:
        """Digest of the encoder that made the store."""
        return self.layout.attributes.encoder_sha256

    @property
    def patch_px(self) -> int:
        """Side of the encoded patches in pixels."""
        return self.layout.attributes.patch_px

    @property
    def mpp(self) -> float | None:
        """Microns per pixel of the encoded patches; None where unknown."""
        return self.layout.attributes.mpp

    @property
    def classes(self) -> tuple[str, ...]:
        """Sorted labels; empty when unlabelled."""
        return self.layout.attributes.classes

    @property
    def valid_rows(self) -> npt.NDArray[np.int64]:
        """Numbers of the rows that are not quarantined, ascending."""
        return np.flatnonzero(self.flags.codes != QUARANTINED)

    def rows_of_split(self, split: str) -> npt.NDArray[np.int64]:
        """Numbers of the valid rows of one split, ascending."""
        code = self.flags.code(split)
        return np.flatnonzero(self.flags.codes == code) if code else np.empty(0, np.int64)

    def with_splits(self, split: pa.Array) -> "LatentStore":
        """The same latents with another column ``split`` of the row table."""
        place = self.rows.schema.get_field_index("split")
        store = replace(self, flags=self.flags.with_splits(split.to_pylist()))
        store.__dict__["rows"] = self.rows.set_column(place, "split", split)
        return store

    def require_encoder(self, encoder_sha256: str, *, owner: str) -> None:
        """Checks that ``owner`` (an autoencoder, a denoiser) works on this store's latents.

        Raises:
            ArtifactError: It was made with another encoder.
        """
        if encoder_sha256 != self.encoder_sha256:
            raise ArtifactError(
                f"{self.path}: was encoded by encoder {self.encoder_sha256[:12]}, but {owner} has"
                f" encoder {encoder_sha256[:12]}; use the autoencoder that encoded it, or encode"
                " again"
            )

    def read(self, start: int, stop: int) -> npt.NDArray[np.float16]:
        """Moments of rows ``start`` to ``stop``, ``(stop - start, 2C, h, w)``; quarantined are NaN.

        Raises:
            ArtifactCorrupt: A row is NaN that is not quarantined (lost data), or the reverse.
        """
        if not 0 <= start <= stop <= self.num_rows:
            raise IndexError(f"rows {start}..{stop} of {self.num_rows}")
        try:
            block = np.asarray(self._moments[start:stop])
        except ValueError as error:  # zarr: the checksum of a shard's index does not match
            raise ArtifactCorrupt(f"{self.path}: rows {start}..{stop}: {error}") from error
        quarantined = self.flags.codes[start:stop] == QUARANTINED
        wrong = start + np.flatnonzero(non_finite_rows(block) != quarantined)
        if wrong.size:
            raise lost_rows(self.path, self.layout, wrong)
        return block

    def read_rows(self, rows: npt.ArrayLike) -> npt.NDArray[np.float16]:
        """Moments of the given rows in their order; reads every inner chunk once."""
        numbers = np.asarray(rows, dtype=np.int64)
        result = np.empty((len(numbers), *self.moment_shape), np.float16)
        chunk_of = numbers // self.layout.rows_per_chunk
        chunks = np.unique(chunk_of)
        for run in np.split(chunks, np.flatnonzero(np.diff(chunks) > 1) + 1) if len(chunks) else []:
            start = int(run[0]) * self.layout.rows_per_chunk
            stop = min((int(run[-1]) + 1) * self.layout.rows_per_chunk, self.num_rows)
            block = self.read(start, stop)
            inside = (numbers >= start) & (numbers < stop)
            result[inside] = block[numbers[inside] - start]
        return result

    def fetcher(self, grid: SlabGrid, *, cache: SlabCache | None = None) -> RowFetcher:
        """Reads runs of rows of this store without zarr, for training.

        Args:
            grid: How the rows are cut into slabs.
            cache: Where slabs of a remote store are kept; a local store needs none.
        """
        kept = None if is_local(self.path) else cache
        return RowFetcher(
            self.path, self.layout, self.flags, self.shards, self.ranges, grid=grid, cache=kept
        )


def _layout(path: StoragePath, group: Any) -> StoreLayout:
    attributes = dict(group.attrs)
    if attributes.get("format") != FORMAT:
        raise ArtifactCorrupt(
            f"{path}: latent store of format {attributes.get('format')!r}; this histodiff reads"
            f" format {FORMAT}: upgrade it"
        )
    try:
        parsed = StoreAttributes.model_validate(attributes)
        array = group[MOMENTS]
    except (ValidationError, KeyError) as error:
        raise ArtifactCorrupt(f"{path}: is not a latent store: {error}") from error
    channels, height, width = array.shape[1:]
    return StoreLayout(
        num_rows=array.shape[0],
        moment_shape=(channels, height, width),
        rows_per_shard=array.shards[0],
        rows_per_chunk=array.chunks[0],
        attributes=parsed,
    )


def _compare_objects(path: StoragePath, shards: pa.Table, present: dict[int, int]) -> None:
    listed = dict(zip(shards["shard"].to_pylist(), shards["size_bytes"].to_pylist(), strict=True))
    for shard, size in listed.items():
        if shard not in present:
            raise ArtifactCorrupt(f"{path / shard_name(shard)}: shard is missing; encode again")
        if present[shard] != size:
            raise ArtifactCorrupt(
                f"{path / shard_name(shard)}: {present[shard]} bytes instead of {size};"
                " encode again"
            )
    for shard in sorted(set(present) - set(listed)):
        raise ArtifactCorrupt(f"{path / shard_name(shard)}: is not in {SHARDS_TABLE}; remove it")
