"""Rows of no use are quarantined by reason, and some of their pictures are kept."""

import io
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from histodiff.data_prep.stages.encode import MAX_PICTURES, EncoderLoad, ShardEncoder
from histodiff.data_prep.stages.forward import EncodeSettings
from histodiff.latents import ShardUnit, ShardWriter
from histodiff.latents.layout import picture_name
from histodiff.runtime import PixelBlock
from histodiff.storage import storage_path
from tests.support.encoders import ConvolutionEncoder
from tests.support.latent_stores import store_layout

ROWS = 40
BATCH = 8


class FragileEncoder(ConvolutionEncoder):
    """Gives NaN for pictures whose first value is 13, and what fp16 cannot hold for 14."""

    def encode(self, pixels_BCHW):
        mean, std = super().encode(pixels_BCHW)
        first = pixels_BCHW[:, 0, 0, 0]
        mean[first == 13] = torch.nan
        mean[first == 14] = 1.0e6
        return mean, std


@pytest.fixture
def encoder(tmp_path):
    layout = store_layout(ROWS, rows_per_shard=ROWS)
    writer = ShardWriter(storage_path(tmp_path), layout)
    writer.write_metadata()
    settings = EncodeSettings(BATCH, 1, "fp32")
    return ShardEncoder(FragileEncoder, writer=writer, settings=settings, device="cpu")


def pictures() -> np.ndarray:
    return np.random.default_rng(3).integers(20, 256, (ROWS, 4, 4, 3), dtype=np.uint8)


def run(encoder, pixels, *, failures=None, order=None):
    order = np.arange(ROWS) if order is None else order
    unit = ShardUnit(0, np.arange(ROWS), order, np.array([ROWS]), pa.table({}))
    blocks = [
        PixelBlock(
            part, pixels[part], {k: v for k, v in (failures or {}).items() if k in part.tolist()}
        )
        for part in np.split(order, 5)
    ]
    return encoder.run(unit, blocks).record


def test_quarantine_reasons_are_told_apart_and_pictures_are_lossless(encoder, tmp_path):
    pixels = pictures()
    pixels[5] = 200  # one colour
    pixels[7, :, :, 0] = 13
    pixels[9, :, :, 0] = 14
    pixels[11] = 0
    record = run(encoder, pixels, failures={11: "UNREADABLE: lost"})
    assert record.quarantined == {
        5: "CONSTANT", 7: "NON_FINITE", 9: "NON_FINITE", 11: "UNREADABLE: lost",
    }  # fmt: skip
    assert sorted(record.pictures) == [5, 7, 9]  # there are no pixels of row 11
    for position, digest in record.pictures.items():
        data = (tmp_path / picture_name(0, position)).read_bytes()
        assert sha256(data).hexdigest() == digest
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels[position])


def test_quarantine_pictures_are_the_first_ones_whatever_the_reading_order(encoder, tmp_path):
    pixels = pictures()
    pixels[:30] = 77
    order = np.random.default_rng(0).permutation(ROWS)
    record = run(encoder, pixels, order=order)
    assert sorted(record.quarantined) == list(range(30))
    assert sorted(record.pictures) == list(range(MAX_PICTURES))
    assert len(list((tmp_path / "quarantine" / "0").iterdir())) == MAX_PICTURES


def test_quarantine_does_not_take_a_picture_with_one_other_value(encoder):
    pixels = pictures()
    pixels[3] = 128
    pixels[3, 2, 1, 1] = 129
    assert run(encoder, pixels).quarantined == {}


def test_encoder_load_is_the_share_of_time_with_pixels():
    load = EncoderLoad()
    assert load.busy_share == 1.0
    load.busy_seconds, load.waited_seconds = 3.0, 1.0
    assert load.busy_share == 0.75
