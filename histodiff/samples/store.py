"""Reading a SampleStore: generated images with their provenance, row by row.

``samples.json`` lists the shards; every shard is a Parquet file with one row per image, the image
as PNG. Opening reads the tables without the images; pixels are read for the rows asked for.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from pydantic import ValidationError

from histodiff.config import Config
from histodiff.errors import ArtifactCorrupt, ArtifactNotFound
from histodiff.samples.schema import SAMPLE_COLUMNS, SOURCE_COLUMNS
from histodiff.storage import StoragePath, list_names

HEADER = "samples.json"


class StoreHeader(Config):
    """What holds for every sample of a store, and its shards."""

    classes: tuple[str, ...]
    """Classes that were asked for, in the guide's order."""
    image_px: int
    """Side of an image in pixels."""
    mpp: float | None
    """Scale the denoiser was trained at; null when unknown."""
    encoder_sha256: str
    """Encoder whose latents the denoiser draws."""
    decoder_sha256: str
    """Decoder that made the pixels."""
    shards: dict[str, int]
    """Rows by name of the shard's file, in order."""


@dataclass(frozen=True)
class SampleStore:
    """An open store; ``rows`` holds every column but the pixels, in order of ``sample``."""

    path: StoragePath
    header: StoreHeader
    rows: pa.Table

    @classmethod
    def open(cls, path: StoragePath) -> "SampleStore":
        """The store at ``path``.

        Raises:
            ArtifactNotFound: There is no store.
            ArtifactCorrupt: A shard is missing or has another number of rows.
        """
        header = _header_at(path)
        missing = sorted(set(header.shards) - set(list_names(path / "shards")))
        if missing:
            raise ArtifactCorrupt(f"{path}: shards are missing: {', '.join(missing)}")
        tables = [_rows_of(path, name, count) for name, count in header.shards.items()]
        rows = pa.concat_tables(tables) if tables else SAMPLE_COLUMNS.empty_table()
        return cls(path, header, rows)

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that were asked for."""
        return self.header.classes

    @property
    def image_px(self) -> int:
        """Side of an image in pixels."""
        return self.header.image_px

    @property
    def labels(self) -> list[str]:
        """The class of every row."""
        return [str(label) for label in self.rows["label"].to_pylist()]

    def rows_of(self, samples: Sequence[int]) -> list[int]:
        """Row numbers of the given ``sample`` values, in their order.

        Raises:
            ArtifactCorrupt: The store has no such sample.
        """
        place = {sample: row for row, sample in enumerate(self.rows["sample"].to_pylist())}
        try:
            return [place[sample] for sample in samples]
        except KeyError as error:
            raise ArtifactCorrupt(f"{self.path}: holds no sample {error}") from error

    def read_pixels(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Images of the given row numbers, uint8 ``(n, H, W, 3)``, in their order."""
        images = np.empty((len(indices), self.image_px, self.image_px, 3), np.uint8)
        places = np.asarray(indices, np.int64)
        start = 0
        for name, count in self.header.shards.items():
            here = np.flatnonzero((places >= start) & (places < start + count))
            if len(here):
                column = self._encoded(name).take(pa.array(places[here] - start))
                for place, png in zip(here, column.to_pylist(), strict=True):
                    images[place] = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
            start += count
        if len(places) and (places.min() < 0 or places.max() >= start):
            raise IndexError(f"row numbers of {self.path} lie between 0 and {start - 1}")
        return images

    def _encoded(self, name: str) -> pa.ChunkedArray:
        with (self.path / "shards" / name).open("rb") as stream:
            return pq.read_table(stream, columns=["png"])["png"]

    def counts(self) -> dict[str, int]:
        """Samples of every class."""
        found = pc.value_counts(self.rows["label"]).to_pylist()
        return {entry["values"]: int(entry["counts"]) for entry in found}


def _header_at(path: StoragePath) -> StoreHeader:
    try:
        return StoreHeader.model_validate_json((path / HEADER).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactNotFound(f"{path} holds no samples ({HEADER} is missing)") from error
    except ValidationError as error:
        raise ArtifactCorrupt(f"{path / HEADER} is not the header of a sample store") from error


def _rows_of(path: StoragePath, name: str, count: int) -> pa.Table:
    with (path / "shards" / name).open("rb") as stream:
        file = pq.ParquetFile(stream)
        sources = [name for name in SOURCE_COLUMNS.names if name in file.schema_arrow.names]
        table = file.read(columns=[*SAMPLE_COLUMNS.names, *sources])
    if table.num_rows != count:
        raise ArtifactCorrupt(f"{path / 'shards' / name}: {table.num_rows} rows, planned {count}")
    return table
