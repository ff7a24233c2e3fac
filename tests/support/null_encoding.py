"""Inputs of ``encode`` of any size without a pixel: an index, and a reader and an encoder that do
cheap arithmetic on coordinates. All else is the real thing: plan, parts, pool, writer, ledger."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from histodiff.artifacts import begin
from histodiff.data_prep.index.patch_index import (
    PATCHES_SCHEMA,
    SLIDES_SCHEMA,
    IndexFacts,
    stream_patch_index,
)
from histodiff.data_prep.stages.parts import EncodePart
from histodiff.runtime import PixelBlock
from histodiff.storage import StoragePath, write_bytes
from tests.support.encode_inputs import AutoencodersConfig, PatchesConfig

PATCH_PX, PITCH_PX = 16, 448
MOMENT_SHAPE = (8, 8, 8)
_TABLE = 4096


class NullReader:
    """Stands for ``EncodeReader``: the pixels of a patch begin with its place, eight bytes."""

    def __init__(self, patches: StoragePath) -> None:
        del patches

    def read(self, part: EncodePart) -> PixelBlock:
        table = part.table()
        pixels = np.zeros((table.num_rows, PATCH_PX, PATCH_PX, 3), np.uint8)
        places = np.stack([table[name].to_numpy() for name in ("x", "y")], axis=1)
        flat = pixels.reshape(len(pixels), -1)
        flat[:, 8] = 255  # a patch of one colour would be quarantined
        flat[:, :8] = (places // PITCH_PX).astype("<i4").view(np.uint8)
        return PixelBlock(part.positions, pixels, {})


class NullEncoder:
    """Stands for an autoencoder: a row of a fixed table, chosen by the patch's place."""

    def __init__(self) -> None:
        shape = (_TABLE, 2, MOMENT_SHAPE[0] // 2, *MOMENT_SHAPE[1:])
        self._table = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self._table[:, 1] = self._table[:, 1].abs()

    def encode(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        flat = pixels_BCHW.permute(0, 2, 3, 1).reshape(len(pixels_BCHW), -1)
        x, y = flat[:, :8].contiguous().view(torch.int32).long().unbind(1)
        rows = self._table[(x * 1009 + y) % _TABLE]
        return rows[:, 0], rows[:, 1]


def load_null_encoder(path: StoragePath, *, device: str) -> NullEncoder:
    """Stands for ``load_autoencoder``."""
    del path, device
    return NullEncoder()


def write_null_inputs(root: StoragePath, *, rows: int, slides: int) -> None:
    """``patches@v1`` of ``rows`` patches on slides of uneven sizes, and ``kl@v1``."""
    draft = begin(root, PatchesConfig(name="patches", version="v1"))
    facts = IndexFacts(patch_px=PATCH_PX, mpp=0.5, resample="box", classes=("a", "b"))
    written = stream_patch_index(
        draft.path, facts, slides=_slides(slides), patches=_patches(_sizes(rows, slides))
    )
    draft.finish({}, content=written.sha256)
    draft = begin(root, AutoencodersConfig(name="kl", version="v1", seed=0))
    facts_json = b'{"downsampling": 2, "latent_channels": 4, "encoder_sha256": "%s"}' % (b"e" * 64)
    write_bytes(draft.path / "autoencoder.json", facts_json)
    draft.finish({})


def _sizes(rows: int, slides: int) -> npt.NDArray[np.int64]:
    """Patches of every slide, at least one: log-normal, as in cohorts."""
    share = np.random.default_rng(0).lognormal(0, 0.7, slides)
    sizes = 1 + np.floor(share / share.sum() * (rows - slides)).astype(np.int64)
    sizes[0] += rows - sizes.sum()
    return sizes


def _slides(number: int) -> pa.Table:
    ids = pa.array([_slide_id(slide) for slide in range(number)])
    columns = {field.name: pa.nulls(number, field.type) for field in SLIDES_SCHEMA}
    return pa.table(columns | {"slide_id": ids, "patient_id": ids}, schema=SLIDES_SCHEMA)


def _slide_id(slide: int) -> str:
    return f"cohort-{slide:07d}-01Z-00-DX1"


def _patches(sizes: npt.NDArray[np.int64]) -> Iterator[pa.Table]:
    """Slide by slide, a scattered piece of a square grid, sorted as an index is."""
    for slide, size in enumerate(sizes):
        side = int(np.ceil(np.sqrt(1.2 * size)))
        cells = np.sort(np.random.default_rng(slide).permutation(side * side)[:size])
        texts = {
            "slide_id": _slide_id(slide), "patient_id": _slide_id(slide), "path": "",
            "label": ("a", "b", None)[slide % 3], "split": ("val", *["train"] * 9)[slide % 10],
        }  # fmt: skip
        numbers = {"level": 0, "read_width": PITCH_PX, "read_height": PITCH_PX}
        known = {name: pa.array([text] * size, pa.string()) for name, text in texts.items()}
        known |= {name: pa.array(np.full(size, value, np.int32)) for name, value in numbers.items()}
        known |= {"x": pa.array(cells % side * PITCH_PX), "y": pa.array(cells // side * PITCH_PX)}
        columns = [known.get(field.name, pa.nulls(size, field.type)) for field in PATCHES_SCHEMA]
        yield pa.table(columns, schema=PATCHES_SCHEMA)
